import { type Code, failure } from "./errors.js";
import type { Calls, Method, Wire } from "./types.js";

/** Connect JSON by hand: no protobuf runtime. A table says what JSON leaves out. */

type Plain = Record<string, any>;

const SETTLED = "settlement:Settlement replayed balance:Balance";

/** The fields of each reply: `name:Message`, `name*Message` for a list, else a value whose kind its name tells. Held against the protos. */
export const MESSAGES: Record<string, string> = {
  ReserveResponse: "hold:Hold denial:Denial replayed balance:Balance",
  CommitResponse: SETTLED,
  ReleaseResponse: SETTLED,
  ExtendResponse: "hold:Hold denial:Denial balance:Balance",
  ReportResponse: "advice affordableOutputTokens usedMicros expiresAt balance:Balance",
  ChargeResponse: "denial:Denial " + SETTLED,
  EstimateResponse: "amountMicros costEstimateUsd priceVersion denial:Denial breakdown*CostLine balance:Balance inputTokens",
  Balance: "wallet availableMicros heldMicros seq epoch",
  GrantDraw: "grantId amountMicros",
  CostLine: "usageClass quantity unitPrice costUsd",
  Hold:
    "holdId amountMicros costEstimateUsd maxOutputTokens priceVersion expiresAt grants*GrantDraw state accountId wallet createdAt " +
    "unlimited inputTokens",
  Denial: "reasons*Reason availableMicros requiredMicros affordableOutputTokens retryAt",
  Reason: "code scope limitMicros usedMicros resetsAt limitId metric window",
  Settlement:
    "settlementId state chargedMicros returnedMicros uncollectedMicros costUsd breakdown*CostLine usageState grants*GrantDraw " +
    "priceVersion holdId settledAt forfeitedMicros",
};

const ENUMS: Plain = { overagePolicy: "OVERAGE_POLICY_", expiryPolicy: "EXPIRY_POLICY_", usageState: "USAGE_STATE_" };
// What a gateway in between answers; all else may be otherwise next time.
const HTTP_CODES: { [status: number]: Code } = { 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED" };
const PUSHBACK = "trailer-grpc-retry-pushback-ms";

/** A value in the client's words; undefined is what JSON leaves out. */
function value(name: string, found: any): unknown {
  if (/Micros$|^(seq|epoch)$/.test(name)) return BigInt(found ?? 0);
  if (/Tokens$/.test(name)) return Number(found ?? 0);
  if (/At$/.test(name)) return found && new Date(found);
  if (/^(replayed|unlimited)$/.test(name)) return !!found;
  if (/^(code|metric|window|advice|state|usageState)$/.test(name)) return found?.replace(/^(HOLD_STATE|USAGE_STATE|CODE|ADVICE|LIMIT_[A-Z]+?)_/, "");
  return found ?? "";
}

/** A reply's JSON in the client's words, with what JSON leaves out. */
function read(message: string, json: Plain): Plain {
  const plain: Plain = {};
  for (const field of MESSAGES[message]!.split(" ")) {
    const [name, kind, inner] = field.split(/([:*])/) as [string, string, string];
    const found = json[name];
    const got = kind === "*" ? (found ?? []).map((one: Plain) => read(inner, one)) : kind ? found && read(inner, found) : value(name, found);
    if (got !== undefined) plain[name] = got;
  }
  return plain;
}

/** JSON.stringify's view of a request. Values inside a caller's own maps are strings, and none of these. */
function write(_: string, value: any): unknown {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Uint8Array) return btoa(Array.from(value, (byte) => String.fromCharCode(byte)).join(""));
  return value;
}

/** `usage` and `modelUsage` may hold enums too. */
function written(request: Plain): Plain {
  const copy = { ...request };
  for (const key in copy) {
    if (ENUMS[key] && copy[key]) copy[key] = ENUMS[key] + copy[key];
    if (/sage$/.test(key) && copy[key]) copy[key] = written(copy[key]);
  }
  return copy;
}

/** The calls over fetch. */
export function jsonWire(baseUrl: string, key: string, given?: typeof globalThis.fetch): Wire {
  const base = baseUrl.replace(/\/+$/, "");
  return async <M extends Method>(name: M, request: Calls[M][0], timeoutMs: number): Promise<Calls[M][1]> => {
    const timeout = AbortSignal.timeout(timeoutMs);
    let response: Response;
    try {
      response = await (given ?? fetch)(`${base}/meterd.v1.Metering/${name}`, {
        method: "POST",
        redirect: "manual",
        signal: timeout,
        headers: {
          authorization: `Bearer ${key}`,
          "content-type": "application/json",
          "connect-protocol-version": "1",
          "connect-timeout-ms": `${Math.ceil(timeoutMs)}`,
        },
        body: JSON.stringify(written(request), write),
      });
    } catch (cause) {
      throw failure(timeout.aborted ? "DEADLINE_EXCEEDED" : "UNAVAILABLE", `${cause}`, cause);
    }
    // A gateway's page is no JSON, nor is an answer that was cut off: the status tells.
    const json = await response.json().catch(() => {});
    if (response.ok && json) return read(`${name}Response`, json) as unknown as Calls[M][1];
    const code = json?.code?.toUpperCase().replace("CANCELED", "CANCELLED");
    const { headers, status } = response;
    throw failure(code ?? HTTP_CODES[status] ?? "UNAVAILABLE", json?.message ?? `HTTP ${status}`, undefined, headers.get(PUSHBACK));
  };
}
