"""Floor 1: holds and balances in Redis or Valkey."""
