"""Floor 0: the rules. No I/O and no clock; time is an argument."""
