"""Plays a trace of real LLM requests through a running server, over gRPC, as a busy backend would."""
