import type { Transport } from "@connectrpc/connect";
import { connectTransport, wireOf } from "./connect.js";
import { Meter, type MeterOptions } from "./meter.js";

export { type TransportOptions, connectTransport, errorOf, wireOf } from "./connect.js";
export * from "./errors.js";
export { type Actual, type CommitOptions, Hold } from "./hold.js";
export { uuid7 } from "./ids.js";
export { type HoldOptions, Meter, type MeterOptions, withHold } from "./meter.js";
export { meterStream } from "./stream.js";
export type * from "./types.js";

/** Where meterd is, and the API key of role "meter". */
export interface CreateMeterOptions extends MeterOptions {
  baseUrl?: string;
  key: string;
  /** Instead of Connect over fetch to `baseUrl`. */
  transport?: Transport;
  fetch?: typeof globalThis.fetch;
}

/** A meter over Connect and fetch: for browsers' servers, Deno, Supabase, Cloudflare Workers and Node. Opens nothing until it is used. */
export function createMeter({ baseUrl = "", key, transport, fetch, ...options }: CreateMeterOptions): Meter {
  return new Meter(wireOf(transport ?? connectTransport({ baseUrl, fetch }), key), options);
}
