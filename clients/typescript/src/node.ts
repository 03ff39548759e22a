import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type CreateMeterOptions, createMeter as overFetch } from "./index.js";
import type { Meter } from "./meter.js";

export * from "./index.js";

// A connection that went silent is found within this time, so that a call is tried again on another.
const PING_INTERVAL_MS = 10_000;
const PING_TIMEOUT_MS = 2_000;

/**
 * gRPC over HTTP/2, for servers on Node and Deno; one connection for all calls. `baseUrl` is "http://127.0.0.1:8260", say. On Deno, Connect
 * over fetch is the safer wire: the HTTP/2 client of Deno 2.9 may end the process when its connection breaks while it writes.
 */
export function grpcTransport(options: { baseUrl: string }): Transport {
  return createGrpcTransport({
    baseUrl: options.baseUrl,
    pingIntervalMs: PING_INTERVAL_MS,
    pingTimeoutMs: PING_TIMEOUT_MS,
    pingIdleConnection: false,
  });
}

/** A meter over gRPC. */
export function createMeter(options: CreateMeterOptions): Meter {
  return overFetch({ ...options, transport: options.transport ?? grpcTransport({ baseUrl: options.baseUrl ?? "" }) });
}
