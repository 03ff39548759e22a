import { DeniedError, UndecidedError } from "./errors.js";
import { Hold } from "./hold.js";
import { uuid7 } from "./ids.js";
import { retried } from "./retry.js";
import type {
  Calls,
  ChargeReply,
  ChargeRequest,
  CommitRequest,
  EstimateReply,
  EstimateRequest,
  ExpiryPolicy,
  HoldGrant,
  Method,
  ModelCharge,
  OveragePolicy,
  Priced,
  ReportedUsage,
  ReserveRequest,
  Settlement,
  Subject,
  Wire,
} from "./types.js";
import { guessedTokens } from "./usage.js";

// Long enough for a fenced partition or a restarted server to be back; a person who waits for an answer is gone after it.
const TIMEOUT_MS = 10_000;
// A settlement is worth waiting longer for: what is not told is decided by the hold's expiry. Workers give `waitUntil` 30 s.
const SETTLE_TIMEOUT_MS = 28_000;

// A hold's life without news of its process; it is extended while its call runs. Shorter, and an outage of meterd would end holds; longer,
// and a process that dies would keep credits from its account.
const TTL_DEFAULT_MS = 120_000;

export interface MeterOptions {
  /** Time for a call with all its retries. Default 10 s. */
  timeoutMs?: number;
  /** The same for Commit and Release. Default 28 s. */
  settleTimeoutMs?: number;
  /** What `hold` does when meterd cannot be asked: throw UndecidedError (default), or let the call go on and meter it afterwards. */
  onUndecided?: "deny" | "allow";
  /** Keeps an edge function alive until a settlement is told, such as `(promise) => ctx.waitUntil(promise)`. */
  waitUntil?: (promise: Promise<unknown>) => void;
  /** Told of a settlement that could not be delivered; the hold's expiry policy decides then. */
  onUnsettled?: (error: unknown, request: ReserveRequest) => void;
}

/** What a hold is for: exactly one of `model`, `feature`, `rate` and `creditsMicros`, who acts, and how long it lives. */
export interface HoldOptions extends Omit<ModelCharge, "model" | "extra"> {
  account: string;
  /** The wallet that pays; by default the price book's, or "default". */
  wallet?: string;
  /** What is charged: a model call, actions of a feature, units of a rate, or micro-credits. */
  model?: string;
  feature?: string;
  rate?: string;
  creditsMicros?: bigint | number;
  /** Actions of the feature, 1 if absent; units of the rate, best as a decimal string. */
  quantity?: number | string;
  extra?: ModelCharge["extra"];
  user?: string;
  team?: string;
  key?: string;
  operationId?: string;
  labels?: Subject["labels"];
  metadata?: Record<string, string>;
  /** The hold's life without news of its process, 1 s to 24 h; extended while the call runs. Default: 2 minutes. */
  ttlMs?: number;
  overagePolicy?: OveragePolicy;
  /** CHARGE_REPORTED unless said otherwise: a runtime that dies has been charged for what it had reported. */
  expiryPolicy?: ExpiryPolicy;
  /** A UUIDv7; made if absent. The same id is the same hold for ever. */
  holdId?: string;
  /** Settles the hold with what is known as soon as it aborts. */
  signal?: AbortSignal;
}

type Background = { waitUntil?: (promise: Promise<unknown>) => void };

/** Reserves, charges and estimates over one wire. */
export class Meter {
  readonly options: MeterOptions;
  readonly #wire: Wire;

  constructor(wire: Wire, options: MeterOptions = {}) {
    this.#wire = wire;
    this.options = options;
  }

  /**
   * Sets credits aside. DeniedError: not granted, and why. UndecidedError: meterd could not be asked (see `onUndecided`). RefusedError: the
   * request is wrong. A signal that aborts meanwhile: its reason is thrown, and a hold that was made is released.
   */
  async hold(options: HoldOptions): Promise<Hold> {
    const { signal } = options;
    signal?.throwIfAborted();
    const request = reserveRequest(options);
    // Not cancelled with the signal: whether the hold was made must be known, to release it.
    const asked = this.#reserve(request, signal);
    if (!signal) return asked;
    return new Promise((resolve, reject) => {
      asked.then(resolve, reject);
      // The hold settles itself, now or once it is there.
      signal.addEventListener("abort", () => {
        reject(signal.reason);
        this.keepAlive(asked.then((hold) => hold.done));
      });
    });
  }

  /**
   * Charges without a hold, all or nothing unless an overage policy is given. DeniedError, UndecidedError and RefusedError as for `hold`. A
   * repeat with the same `idempotencyKey` answers the same settlement.
   */
  async charge(request: Omit<ChargeRequest, "idempotencyKey"> & { idempotencyKey?: string }): Promise<ChargeReply & { settlement: Settlement }> {
    const reply = await this.call("Charge", { ...request, idempotencyKey: request.idempotencyKey ?? uuid7() });
    if (!reply.settlement) throw new DeniedError(reply.denial!, reply.balance);
    return reply as ChargeReply & { settlement: Settlement };
  }

  /**
   * What a hold would take, in micro-credits, and with an account whether it would be denied (an answer, no error); touches nothing.
   * RefusedError, UndecidedError.
   */
  estimate(request: EstimateRequest): Promise<EstimateReply> {
    return this.call("Estimate", request);
  }

  /**
   * Any call, with retries for `timeoutMs`: each try sends the same request, so its id has one effect. UndecidedError after that;
   * RefusedError at once. A denial is in the reply.
   */
  call<M extends Method>(method: M, request: Calls[M][0], timeoutMs = this.options.timeoutMs ?? TIMEOUT_MS): Promise<Calls[M][1]> {
    return retried(this.#wire, method, request, timeoutMs);
  }

  /** Keeps the runtime alive until the promise has ended, where the runtime has a way to say so. */
  keepAlive(promise: Promise<unknown>): void {
    const quiet = promise.catch(() => {});
    // Supabase has a global one.
    const runtime: Background | undefined = this.options.waitUntil ? this.options : (globalThis as { EdgeRuntime?: Background }).EdgeRuntime;
    runtime?.waitUntil?.(quiet);
  }

  /** Tells how a hold ends: a Commit, or the reason of a Release. Undelivered, it is told to `onUnsettled`. */
  async end(request: ReserveRequest, grant: HoldGrant | undefined, ending: CommitRequest | string): Promise<Settlement | undefined> {
    const timeoutMs = this.options.settleTimeoutMs ?? SETTLE_TIMEOUT_MS;
    try {
      if (typeof ending === "string") {
        return grant && (await this.call("Release", { holdId: grant.holdId, reason: ending }, timeoutMs)).settlement;
      }
      if (grant) return (await this.call("Commit", ending, timeoutMs)).settlement;
      return (await this.call("Charge", lateCharge(request, ending), timeoutMs)).settlement;
    } catch (error) {
      if (error instanceof UndecidedError) this.options.onUnsettled?.(error, request);
      throw error;
    }
  }

  async #reserve(request: ReserveRequest, signal?: AbortSignal): Promise<Hold> {
    try {
      const reply = await this.call("Reserve", request);
      if (!reply.hold) throw new DeniedError(reply.denial!, reply.balance);
      return new Hold(this, request, reply.hold, reply.balance, signal);
    } catch (error) {
      if (!(error instanceof UndecidedError) || this.options.onUndecided !== "allow") throw error;
      return new Hold(this, request, undefined, undefined, signal);
    }
  }
}

/** The charge of a call that was let pass undecided. Not all or nothing: what the wallet does not cover is recorded as uncollected. */
function lateCharge(request: ReserveRequest, ending: CommitRequest): ChargeRequest {
  const { holdId: _, ttlMs: __, expiryPolicy: ___, model, ...rest } = request;
  const { holdId: ____, amountMicros, quantity, usage, ...served } = ending;
  const charge: ChargeRequest = { ...rest, idempotencyKey: uuid7(), overagePolicy: request.overagePolicy ?? "DRAW" };
  if (charge.rate && quantity) charge.rate = { ...charge.rate, quantity };
  if (amountMicros !== undefined) charge.credits = { amountMicros };
  if (!model) return charge;
  // Nothing is known, and there is no hold that could be charged instead: what would have been held.
  const most = { inputTokens: model.inputTokens || guessedTokens(model.prompt), outputTokens: model.maxOutputTokens };
  const used: ReportedUsage | undefined = usage && !usage.usage ? { usage: most, usageState: "ESTIMATED" } : usage;
  return { ...charge, modelUsage: { model: model.model, provider: model.provider, serviceTier: model.serviceTier, usage: used, ...served } };
}

function reserveRequest(options: HoldOptions): ReserveRequest {
  const { account, model, feature, quantity, rate, creditsMicros, user, team, key, operationId, labels, signal: _, ...more } = options;
  const { provider, inputTokens, prompt, maxOutputTokens, minOutputTokens, serviceTier, extra, ...rest } = more;
  const priced: Priced = model
    ? { model: { provider, model, inputTokens, prompt, maxOutputTokens, minOutputTokens, serviceTier, extra } }
    : rate
      ? { rate: { rate, quantity: `${quantity ?? 1}` } }
      : creditsMicros !== undefined
        ? { credits: { amountMicros: creditsMicros } }
        : { feature: { feature: feature ?? "", quantity: Number(quantity ?? 1) } };
  return {
    ...rest,
    ...priced,
    accountId: account,
    holdId: rest.holdId ?? uuid7(),
    ttlMs: rest.ttlMs ?? TTL_DEFAULT_MS,
    subject: { user, team, key, operationId, labels },
    expiryPolicy: rest.expiryPolicy ?? "CHARGE_REPORTED",
  };
}

/**
 * Reserves, runs the body and ends the hold, whatever happens: what the body committed or released stays. A body that returns a provider's
 * response is charged by it. One that throws, or whose signal aborts, is charged what is known, as PARTIAL, and nothing if nothing was
 * produced. One that ends in good order without telling anything is charged as last reported, or whole: a finished call is never free.
 */
export async function withHold<T>(meter: Meter, options: HoldOptions, body: (hold: Hold) => Promise<T> | T): Promise<T> {
  const hold = await meter.hold(options);
  // Between the answer and here.
  options.signal?.throwIfAborted();
  hold.kept = true;
  let result: T;
  try {
    result = await body(hold);
  } catch (error) {
    // The body's error is what the caller has to see; an unsettled hold is told to onUnsettled.
    await hold.settle().catch(() => {});
    throw error;
  }
  if (!hold.ended && !hold.streaming) await hold.settleWith(result);
  return result;
}
