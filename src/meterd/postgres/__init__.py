"""Floor 1: the durable store. The journal writes the ledger, the catalog what people decide about accounts."""
