import type { Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { type TransportOptions, manual } from "./connect.js";

/** gRPC-Web over fetch, for proxies that speak no Connect: `createMeter({ key, transport: grpcWebTransport({ baseUrl }) })`. */
export function grpcWebTransport(options: TransportOptions): Transport {
  return createGrpcWebTransport({ baseUrl: options.baseUrl, useBinaryFormat: !options.json, fetch: manual(options.fetch) });
}
