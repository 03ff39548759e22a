/**
 * What tests ask a runtime to do, over HTTP, in Node, Deno and workerd alike: one call of a wire as it is (POST /call), and a metered
 * stream of a provider (POST /stream). Nothing here knows the runtime.
 */
import { type HoldOptions, Meter, MeterError, type MeterOptions, connectTransport, createMeter, meterStream, withHold, wireOf } from "@meterd/client";
import * as edge from "@meterd/client/edge";
import { grpcWebTransport } from "@meterd/client/grpc-web";

export type Json = Record<string, any>;

/** Where meterd is, and how to reach it. */
export interface Target {
  wire: string;
  http: string;
  grpc: string;
  key: string;
}

export type MakeMeter = (target: Target, options: MeterOptions) => Meter | undefined;

/** The meter of a wire. `more` makes those that only some runtimes have. */
export function meterOf(target: Target, options: MeterOptions, more?: MakeMeter): Meter {
  const { wire, http: baseUrl, key } = target;
  switch (wire) {
    case "connect":
      return createMeter({ baseUrl, key, ...options });
    case "connect-json":
      return new Meter(wireOf(connectTransport({ baseUrl, json: true }), key), options);
    case "grpc-web":
      return createMeter({ transport: grpcWebTransport({ baseUrl }), key, ...options });
    case "edge":
      return edge.createMeter({ baseUrl, key, ...options }) as unknown as Meter;
    default: {
      const made = more?.(target, options);
      if (!made) throw new Error(`no wire ${wire} here`);
      return made;
    }
  }
}

/** Amounts are decimal strings in JSON. */
export function fromJson(value: unknown, name = ""): any {
  if (Array.isArray(value)) return value.map((one) => fromJson(one));
  if (typeof value === "string" && /Micros$/.test(name)) return BigInt(value);
  if (name === "json" && typeof value === "string") return new TextEncoder().encode(value);
  if (typeof value !== "object" || value === null || name === "metadata" || name === "labels") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, fromJson(inner, key)]));
}

const toJson = (value: unknown): string => JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? String(inner) : inner));

const told = (error: unknown): Json => {
  const known = error as MeterError;
  return { error: { name: known.name, code: known.code, message: known.message } };
};

/** Answers a test's request. */
export async function handle(request: Request, waitUntil?: (promise: Promise<unknown>) => void, more?: MakeMeter): Promise<Response> {
  const body: Json = request.method === "POST" ? ((await request.json()) as Json) : {};
  const meter = () => meterOf(body.target as Target, { waitUntil, ...body.options }, more);
  switch (new URL(request.url).pathname) {
    case "/call":
      return answer(async () => ({ reply: await meter().call(body.method, fromJson(body.request), body.timeoutMs) }));
    case "/stream":
      return stream(meter(), body, request.signal);
    case "/run":
      return answer(() => run(meter(), body));
    default:
      return new Response("ready");
  }
}

async function answer(act: () => Promise<unknown>): Promise<Response> {
  const headers = { "content-type": "application/json" };
  try {
    return new Response(toJson(await act()), { headers });
  } catch (error) {
    return new Response(toJson(told(error)), { headers });
  }
}

const ask = (body: Json, signal?: AbortSignal): Promise<Response> =>
  fetch(`${body.provider}/v1/${body.api === "anthropic" ? "messages" : "chat/completions"}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...body.headers },
    body: JSON.stringify({
      model: body.hold.model,
      messages: [{ role: "user", content: "Say something about credits" }],
      max_tokens: body.words,
      stream: body.stream !== false,
      ...(body.api !== "anthropic" && body.stream !== false && { stream_options: { include_usage: true } }),
    }),
    signal,
  });

/** The provider's bytes, metered, as an edge function passes them on. */
async function stream(meter: Meter, body: Json, signal: AbortSignal): Promise<Response> {
  const hold = await meter.hold(fromJson(body.hold) as HoldOptions);
  const upstream = await ask(body, body.cancels ? signal : undefined);
  return new Response(meterStream(hold, upstream.body!), { headers: { "x-hold-id": hold.holdId } });
}

/** A whole call. `throws`: its body fails after the provider has answered. */
async function run(meter: Meter, body: Json): Promise<Json> {
  const seen: Json = {};
  await withHold(meter, fromJson(body.hold) as HoldOptions, async (hold) => {
    seen.holdId = hold.holdId;
    const response = await (await ask({ ...body, stream: false })).json();
    if (body.commits) seen.settlement = await hold.commit(response);
    if (body.throws) throw new Error("the body failed");
    return response;
  });
  return seen;
}
