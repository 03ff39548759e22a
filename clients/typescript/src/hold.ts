import { DeniedError, MissingUsageError, RefusedError, UndecidedError } from "./errors.js";
import type { Meter } from "./meter.js";
import { meterStream } from "./stream.js";
import type { Balance, CommitRequest, HoldGrant, ReportReply, ReserveRequest, Settlement, Usage, UsageState } from "./types.js";
import { type Json, Tally, bytesOf, carrier, guessedTokens, isUsage, usageOf } from "./usage.js";

// A body that hangs must not keep its hold for ever.
const EXTENDED_MAX_MS = 24 * 60 * 60 * 1000;
// The rest of the hold's life is for retries.
const EXTEND_AT_SHARE = 2 / 3;

/** What ended a call: a provider's response, a usage, or the actual of a charge that is not a model's. */
export type Actual = Usage | Json | { amountMicros: bigint | number } | { quantity: string };

export interface CommitOptions {
  /** REPORTED unless said otherwise. */
  usageState?: UsageState;
  /** If another model, provider or tier served the call. */
  model?: string;
  provider?: string;
  serviceTier?: string;
}

export type Ended = Promise<Settlement | undefined>;

/**
 * Credits that are set aside for one call. It ends once: by `commit`, `release`, or `settle`, which commits what is known. Until then its
 * life is extended by itself.
 */
export class Hold {
  /** Output tokens that are covered: what to ask the provider for. */
  readonly maxOutputTokens: number;
  /** Micro-credits that are set aside; 0 of a hold that could not be decided. */
  readonly amountMicros: bigint;
  /** Fulfilled when the hold has ended, with its settlement; rejected if it could not be told to meterd. */
  readonly done: Ended;
  /** What the hold's stream has told so far. */
  readonly tally = new Tally();
  /** Set by `withHold`: the body's end settles it, and not the signal, since the body may still come to a response. */
  kept = false;
  /** Set by a stream that will settle it. */
  streaming = false;
  /** Set by a stream that was ended because not one more output token was covered. */
  stopped = false;
  #ending: Ended | undefined;
  #finish!: (outcome: Ended) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  // What `report` was given.
  #noted: Usage | undefined;
  // Somebody tried to commit: the call was made, whatever comes after.
  #called = false;
  readonly #meter: Meter;
  readonly #extendUntilMs = Date.now() + EXTENDED_MAX_MS;
  readonly #onAbort = (): void => {
    clearTimeout(this.#timer);
    if (!this.kept && !this.streaming) this.settle().catch(() => {});
  };

  /** `grant` is undefined where meterd could not decide and the meter lets calls pass then. */
  constructor(
    meter: Meter,
    readonly request: ReserveRequest,
    readonly grant?: HoldGrant,
    /** Of the wallet, right after the hold was made. */
    readonly balance?: Balance,
    readonly signal?: AbortSignal,
  ) {
    this.#meter = meter;
    this.maxOutputTokens = grant?.maxOutputTokens ?? request.model?.maxOutputTokens ?? 0;
    this.amountMicros = grant?.amountMicros ?? 0n;
    this.done = new Promise((resolve) => (this.#finish = resolve));
    this.done.catch(() => {});
    if (signal?.aborted) this.#onAbort();
    signal?.addEventListener("abort", this.#onAbort);
    this.#schedule();
  }

  /** What Commit, Release, Extend and Report take; the client's own UUID of a hold that could not be decided. */
  get holdId(): string {
    return this.grant?.holdId ?? this.request.holdId;
  }

  get ended(): boolean {
    return !!this.#ending;
  }

  /** Input tokens as the caller or meterd counted them, or as the prompt's length makes likely. */
  get inputTokens(): number {
    const model = this.request.model;
    return model?.inputTokens || this.grant?.inputTokens || guessedTokens(model?.prompt);
  }

  /** The usage so far, cumulative; undefined where nothing is known. */
  get usage(): Usage | undefined {
    return this.#noted ?? (this.tally.events ? this.tally.usage(this.inputTokens) : undefined);
  }

  /**
   * Tells the cumulative usage, by default what the stream has told, and asks whether to go on; undefined where meterd cannot be asked,
   * since a lost report does no harm.
   */
  async report(usage?: Usage | Json): Promise<ReportReply | undefined> {
    if (usage) this.#noted = usageOf(usage);
    const known = this.usage;
    if (!this.grant || !known || this.#ending) return undefined;
    try {
      return await this.#meter.call("Report", { holdId: this.holdId, usage: known });
    } catch (error) {
      if (error instanceof UndecidedError || this.#ending) return undefined;
      throw error;
    }
  }

  /** Gives the hold at least `ttlMs` from now, and more credits if a new total is given. DeniedError: neither. A repeat does no harm. */
  async extend(ttlMs: number, amountMicros?: bigint | number): Promise<HoldGrant | undefined> {
    if (!this.grant) return undefined;
    const reply = await this.#meter.call("Extend", { holdId: this.holdId, ttlMs, amountMicros });
    if (reply.denial) throw new DeniedError(reply.denial, reply.balance);
    return reply.hold;
  }

  /**
   * Ends the hold with what was really used: a provider's response (only its usage leaves the process), a usage, or nothing for features,
   * rates and credits. A model's commit that tells nothing is charged as last reported, or whole. A second call answers as the first did.
   * RefusedError: what it says is wrong, and the hold is still open.
   */
  commit(actual?: Actual, { usageState, ...served }: CommitOptions = {}): Ended {
    this.#called = true;
    return this.#end(() => ({ holdId: this.holdId, ...this.#actual(actual, usageState), ...served }));
  }

  /** Ends the hold and returns all of it. */
  release(reason = ""): Ended {
    return this.#end(() => reason);
  }

  /**
   * Ends the hold with what is known. `complete` false: the call was cut off, and is charged so far, as PARTIAL; all is returned if nothing
   * is known. True: it ran to its end, which is never free: a model's whole hold is charged if nothing is known.
   */
  settle(complete = false): Ended {
    const { usage, tally, request } = this;
    if (complete && !tally.failed) {
      if (tally.final && !this.#noted) return this.commit(tally.body);
      return this.commit(usage, { usageState: this.#noted ? "REPORTED" : "ESTIMATED" });
    }
    if (usage && request.model) return this.commit(usage, { usageState: "PARTIAL" });
    return this.#called ? this.commit() : this.release("nothing was used");
  }

  /** Ends the hold of a body that ended in good order and has returned `result`: a response or a usage, or else with what is known. */
  async settleWith(result: unknown): Ended {
    if (usageOf(result)) return this.commit(result as Json);
    const missing = this.request.model && !this.usage;
    const settlement = await this.settle(true);
    if (missing) throw new MissingUsageError(settlement);
    return settlement;
  }

  /** The stream, metered: see `meterStream`. */
  stream<T>(source: ReadableStream<T>): ReadableStream<T>;
  stream<T>(source: AsyncIterable<T>): AsyncGenerator<T, void, void>;
  stream<T>(source: ReadableStream<T> | AsyncIterable<T>): ReadableStream<T> | AsyncGenerator<T, void, void> {
    return meterStream(this, source as ReadableStream<T>);
  }

  /** Keeps the runtime alive until the promise has ended, where the runtime has a way to say so. */
  keepAlive(promise: Promise<unknown>): void {
    this.#meter.keepAlive(promise);
  }

  #actual(actual: Actual | undefined, usageState?: UsageState): Omit<CommitRequest, "holdId"> {
    if (actual && ("amountMicros" in actual || "quantity" in actual)) return actual as Omit<CommitRequest, "holdId">;
    const body = carrier(actual);
    if (body && !isUsage(body.usage)) return { providerResponse: { json: bytesOf(JSON.stringify(body)) } };
    const usage = usageOf(actual);
    if (usage) return { usage: { usage, usageState } };
    if (!this.request.model) return {};
    // Nothing, or a response without a usage: what the hold knows is a guess.
    return { usage: this.usage ? { usage: this.usage, usageState: "ESTIMATED" } : { usageState: "ABSENT" } };
  }

  #end(make: () => CommitRequest | string): Ended {
    if (this.#ending) return this.#ending;
    clearTimeout(this.#timer);
    const ending = this.#meter.end(this.request, this.grant, make());
    this.#ending = ending;
    this.keepAlive(ending);
    ending.then(
      () => this.#finish(ending),
      (error) => {
        if (error instanceof RefusedError && this.#called) {
          // What it said was wrong: the hold is still open, for another try or for `settle`.
          this.#ending = undefined;
          this.#schedule();
        } else this.#finish(ending);
      },
    );
    return ending;
  }

  #schedule(): void {
    if (!this.grant || this.signal?.aborted) return;
    const ttlMs = this.request.ttlMs;
    this.#timer = setTimeout(() => {
      if (this.#ending || Date.now() > this.#extendUntilMs) return;
      // Refused: it has ended another way, and its commit will tell how.
      this.extend(ttlMs).then(
        () => void (this.#ending || this.#schedule()),
        (error) => void (error instanceof UndecidedError && !this.#ending && this.#schedule()),
      );
    }, ttlMs * EXTEND_AT_SHARE);
    // In Node a timer that waits must not keep the process alive.
    (this.#timer as { unref?: () => void }).unref?.();
  }
}
