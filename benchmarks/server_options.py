def options():
    return [("grpc.server.max_pending_requests", 100000), ("grpc.server.max_pending_requests_hard_limit", 200000)]
