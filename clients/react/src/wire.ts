import type { Json } from "./decode.js";

/** Connect with JSON over fetch: the few reads that a token of one account may make. */

// A read that takes longer is lost: its server or its network is away.
const CALL_TIMEOUT_MS = 10_000;
// The server writes at least every 30 seconds; a stream that was silent for longer hangs.
const SILENCE_MAX_MS = 45_000;
// The first message is the present balance. A proxy that holds it back until the stream ends cannot carry streams.
const FIRST_MESSAGE_MS = 8_000;
// A balance has a few hundred bytes for each grant.
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

const PREFIX_BYTES = 5;
const FLAG_COMPRESSED = 1;
const FLAG_END = 2;

/** What gateways say in place of meterd. */
const HTTP_CODES: { [status: number]: string } = {
  401: "unauthenticated",
  403: "permission_denied",
  404: "unimplemented",
  429: "unavailable",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
};

/** A call that failed. `code` is Connect's, such as "unauthenticated" or "unavailable". */
export class CallError extends Error {
  override readonly name = "CallError";

  constructor(
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export interface Endpoint {
  /** Without a slash at its end. */
  baseUrl: string;
  fetch: typeof globalThis.fetch;
}

/** One call. CallError; an abort by `signal` is the code "canceled". */
export async function unary(endpoint: Endpoint, token: string, method: string, request: Json, signal?: AbortSignal): Promise<Json> {
  const limit = limited(signal);
  limit.within(CALL_TIMEOUT_MS);
  try {
    const response = await post(endpoint, token, method, "application/json", JSON.stringify(request), limit.signal);
    const body = await response.text();
    if (!response.ok) throw failureOf(response, body);
    return parsed(body);
  } catch (caught) {
    throw errorOf(caught, signal);
  } finally {
    limit.end();
  }
}

/** A stream of replies, until the server or `signal` ends it, which is a CallError too. */
export async function* stream(endpoint: Endpoint, token: string, method: string, request: Json, signal: AbortSignal): AsyncGenerator<Json> {
  const limit = limited(signal);
  try {
    limit.within(FIRST_MESSAGE_MS);
    const response = await post(endpoint, token, method, "application/connect+json", enveloped(request), limit.signal);
    if (!response.ok || !response.body) throw failureOf(response, await response.text());
    for await (const [flags, json] of envelopes(response.body)) {
      if (flags & FLAG_END) throw endOf(json);
      limit.within(SILENCE_MAX_MS);
      yield json;
    }
    throw new CallError("unavailable", "the stream was cut off");
  } catch (caught) {
    throw errorOf(caught, signal);
  } finally {
    // The reader may have left in the middle.
    limit.end();
  }
}

function post(endpoint: Endpoint, token: string, method: string, type: string, body: BodyInit, signal: AbortSignal): Promise<Response> {
  const headers = { authorization: `Bearer ${token}`, "content-type": type, "connect-protocol-version": "1" };
  return endpoint.fetch(`${endpoint.baseUrl}/meterd.v1.${method}`, { method: "POST", headers, body, signal, cache: "no-store", credentials: "omit" });
}

/** A signal that follows another one and a deadline that can be moved. */
function limited(outer?: AbortSignal): { signal: AbortSignal; within(ms: number): void; end(): void } {
  const controller = new AbortController();
  const abort = (): void => controller.abort(outer?.reason);
  let timer: ReturnType<typeof setTimeout> | undefined;
  if (outer?.aborted) abort();
  outer?.addEventListener("abort", abort);
  return {
    signal: controller.signal,
    within(ms) {
      clearTimeout(timer);
      timer = setTimeout(() => controller.abort(new CallError("deadline_exceeded", `no answer within ${ms} ms`)), ms);
    },
    end() {
      clearTimeout(timer);
      outer?.removeEventListener("abort", abort);
      // Closes the connection of a stream that nobody reads any more.
      controller.abort();
    },
  };
}

function enveloped(request: Json): Uint8Array<ArrayBuffer> {
  const message = new TextEncoder().encode(JSON.stringify(request));
  const envelope = new Uint8Array(PREFIX_BYTES + message.length);
  new DataView(envelope.buffer).setUint32(1, message.length);
  envelope.set(message, PREFIX_BYTES);
  return envelope;
}

/** Flags and content of each envelope; the network may cut them anywhere. */
async function* envelopes(body: ReadableStream<Uint8Array>): AsyncGenerator<[number, Json]> {
  const reader = body.getReader();
  let buffer = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(buffer.length + value.length);
    joined.set(buffer);
    joined.set(value, buffer.length);
    buffer = joined;
    while (buffer.length >= PREFIX_BYTES) {
      const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(1);
      if (length > MESSAGE_BYTES_MAX) throw new CallError("resource_exhausted", `a message of ${length} bytes`);
      if (buffer.length < PREFIX_BYTES + length) break;
      const flags = buffer[0] ?? 0;
      if (flags & FLAG_COMPRESSED) throw new CallError("internal", "a compressed message, and none was asked for");
      const content = new TextDecoder().decode(buffer.subarray(PREFIX_BYTES, PREFIX_BYTES + length));
      buffer = buffer.slice(PREFIX_BYTES + length);
      yield [flags, parsed(content)];
    }
  }
}

function parsed(body: string): Json {
  try {
    return JSON.parse(body) as Json;
  } catch (cause) {
    throw new CallError("internal", "the answer is not JSON: is this meterd's HTTP address?", { cause });
  }
}

function endOf(json: Json): CallError {
  const error = json["error"] as Json | undefined;
  return new CallError(String(error?.["code"] ?? "unavailable"), String(error?.["message"] ?? "the server ended the stream"));
}

function failureOf(response: Response, body: string): CallError {
  let json: Json = {};
  try {
    json = JSON.parse(body) as Json;
  } catch {
    // A gateway's page: its status tells.
  }
  const code = typeof json["code"] === "string" ? json["code"] : (HTTP_CODES[response.status] ?? "unknown");
  return new CallError(code, typeof json["message"] === "string" ? json["message"] : `HTTP ${response.status}`);
}

function errorOf(caught: unknown, signal: AbortSignal | undefined): Error {
  if (signal?.aborted) return new CallError("canceled", "canceled", { cause: caught });
  if (caught instanceof CallError) return caught;
  return new CallError("unavailable", `meterd cannot be reached: ${String(caught)}`, { cause: caught });
}
