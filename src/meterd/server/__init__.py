"""The gRPC servers: who may call, how a request becomes a use case, and how its result becomes a response."""
