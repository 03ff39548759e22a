"""Floor 2: the use cases and the workers."""
