"""Floor 1: where prices and usage come from: the bundled price data, the operator's file, providers' responses, token counts."""
