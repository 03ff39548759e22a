import { jsonWire } from "./json.js";
import { Meter, type MeterOptions } from "./meter.js";

export {
  AuthenticationError,
  type Code,
  ConflictError,
  DeniedError,
  HoldEndedError,
  InvalidArgumentError,
  MeterError,
  MissingUsageError,
  NotFoundError,
  RefusedError,
  UndecidedError,
} from "./errors.js";
export { type Actual, type CommitOptions, Hold } from "./hold.js";
export { uuid7 } from "./ids.js";
export { type HoldOptions, Meter, type MeterOptions, withHold } from "./meter.js";
export { meterStream } from "./stream.js";
export type * from "./types.js";

/** Where meterd is, and the API key of role "meter". */
export interface CreateMeterOptions extends MeterOptions {
  /** Where meterd's HTTP listener is, such as "https://meterd.internal". */
  baseUrl: string;
  key: string;
  fetch?: typeof globalThis.fetch;
}

/** A meter over fetch and JSON alone: the smallest there is. */
export function createMeter({ baseUrl, key, fetch, ...options }: CreateMeterOptions): Meter {
  return new Meter(jsonWire(baseUrl, key, fetch), options);
}
