import { type DescField, type DescMessage, type DescMethodUnary, type Message, ScalarType, create } from "@bufbuild/protobuf";
import { TimestampSchema, type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { CODES, failure } from "./errors.js";
import { Metering } from "./gen/meterd/v1/metering_pb.js";
import type { Calls, Method, Wire } from "./types.js";

type Plain = Record<string, unknown>;

/** What any message may have been: its fields, and its oneofs as `{ case, value }`. */
type Fields = Record<string, unknown>;

// Token counts and quantities are at most 10^12, and go into a provider's request as numbers.
const BIG = /Micros$|^(seq|epoch)$/;
export interface TransportOptions {
  /** Where meterd listens, such as "https://meterd.internal". */
  baseUrl: string;
  /** Messages as JSON instead of protobuf. */
  json?: boolean;
  fetch?: typeof globalThis.fetch;
}

// Cloudflare's fetch knows no `redirect: "error"`, which is what the transport asks for.
export const manual =
  (inner?: typeof globalThis.fetch): typeof globalThis.fetch =>
  (input, init) =>
    (inner ?? globalThis.fetch)(input, { ...init, redirect: "manual" });

/** Connect over fetch: HTTP/1.1 or 2, in every runtime. */
export function connectTransport(options: TransportOptions): Transport {
  return createConnectTransport({ baseUrl: options.baseUrl, useBinaryFormat: !options.json, fetch: manual(options.fetch) });
}

/** The calls over any transport of Connect. `key` is the API key. */
export function wireOf(transport: Transport, key: string): Wire {
  const headers = { authorization: `Bearer ${key}` };
  return async <M extends Method>(name: M, request: Calls[M][0], timeoutMs: number): Promise<Calls[M][1]> => {
    const method = Metering.method[(name[0]!.toLowerCase() + name.slice(1)) as "reserve"] as DescMethodUnary;
    try {
      const message = create(method.input, initOf(method.input, request as unknown as Plain));
      const reply = await transport.unary(method, undefined, timeoutMs, headers, message);
      return plainOf(method.output, reply.message as Message) as unknown as Calls[M][1];
    } catch (caught) {
      throw errorOf(caught);
    }
  };
}

/** The client's error for a failure of Connect's. */
export function errorOf(caught: unknown): Error {
  const error = ConnectError.from(caught);
  const pushback = error.metadata.get("grpc-retry-pushback-ms") ?? error.metadata.get("trailer-grpc-retry-pushback-ms");
  return failure(CODES[error.code - 1] ?? "UNKNOWN", error.rawMessage, caught, pushback);
}

/** What `create` takes for a plain object; fields that the message does not have are an error of the caller. */
function initOf(desc: DescMessage, plain: Plain): Fields {
  const init: Fields = {};
  for (const [name, value] of Object.entries(plain)) {
    if (value === undefined) continue;
    const field = desc.field[name];
    if (!field) throw failure("INVALID_ARGUMENT", `${desc.name} has no field ${name}`);
    const inner = initValue(field, value);
    if (field.oneof) init[field.oneof.localName] = { case: name, value: inner };
    else init[name] = inner;
  }
  return init;
}

function initValue(field: DescField, value: unknown): unknown {
  switch (field.fieldKind) {
    case "message":
      if (value instanceof Date) return timestampFromDate(value);
      return create(field.message, initOf(field.message, value as Plain));
    case "enum": {
      const found = field.enum.values.find((one) => one.localName === value);
      if (!found) throw failure("INVALID_ARGUMENT", `${field.name} cannot be ${String(value)}`);
      return found.number;
    }
    case "scalar":
      return field.scalar === ScalarType.INT64 ? int64(field.name, value) : value;
    default:
      return value;
  }
}

function int64(name: string, value: unknown): bigint {
  if (typeof value === "bigint") return value;
  if (Number.isSafeInteger(value)) return BigInt(value as number);
  throw failure("INVALID_ARGUMENT", `${name} must be a bigint or a safe integer`);
}

/** A message in the client's words. Messages and oneofs that are not set are left out. */
function plainOf(desc: DescMessage, message: Message): Plain {
  const plain: Plain = {};
  const fields = message as unknown as Fields;
  for (const field of desc.fields) {
    let value = fields[field.localName];
    if (field.oneof) {
      const chosen = fields[field.oneof.localName] as { case?: string; value?: unknown };
      value = chosen.case === field.localName ? chosen.value : undefined;
    }
    if (value !== undefined) value = plainValue(field, value);
    if (value !== undefined) plain[field.localName] = value;
  }
  return plain;
}

function plainValue(field: DescField, value: unknown): unknown {
  switch (field.fieldKind) {
    case "message":
      if (field.message.typeName === TimestampSchema.typeName) return timestampDate(value as Timestamp);
      return plainOf(field.message, value as Message);
    case "list":
      return field.listKind === "message" ? (value as Message[]).map((one) => plainOf(field.message, one)) : value;
    case "enum":
      return value === 0 ? undefined : field.enum.value[value as number]?.localName;
    case "scalar":
      return typeof value === "bigint" && !BIG.test(field.localName) ? Number(value) : value;
    default:
      return value;
  }
}
