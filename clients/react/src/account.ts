import { type Json, balanceOf, catalogOf, pageOf } from "./decode.js";
import { Store } from "./store.js";
import { Tokens, type GetToken } from "./tokens.js";
import type { Balance, Catalog, TransactionPage } from "./types.js";
import { after, backoffMs, isHidden, wait, whenHidden } from "./waiting.js";
import { CallError, type Endpoint, stream, unary } from "./wire.js";

/**
 * - `loading`: nothing is known yet.
 * - `live`: a stream tells each change within a second.
 * - `polling`: no stream gets through; it is asked for at intervals.
 * - `stale`: the connection is lost; what is shown is the last that was known.
 * - `error`: nothing is known, and the last try failed. It is tried again.
 */
export type BalanceStatus = "loading" | "live" | "polling" | "stale" | "error";

export interface BalanceState {
  status: BalanceStatus;
  balance: Balance | undefined;
  /** Why it is stale or not there. */
  error: CallError | undefined;
  /** When meterd last told it. */
  updatedAt: Date | undefined;
}

export type CatalogState =
  | { status: "loading"; catalog: undefined; error: undefined }
  | { status: "error"; catalog: undefined; error: CallError }
  | { status: "ready"; catalog: Catalog; error: undefined };

export interface AccountOptions {
  baseUrl: string;
  account: string;
  getToken: GetToken;
  /** Between two readings of the balance while no stream gets through. */
  pollIntervalMs: number;
  fetch: typeof globalThis.fetch | undefined;
}

// A hidden page gives its stream back after this time: over HTTP/1.1 a browser has six connections to a host for all of its tabs.
const HIDDEN_MAX_MS = 30_000;
// While polling works, a stream is tried again after this time.
const STREAM_AGAIN_MS = 60_000;
// These do not pass by themselves, and asking in another way does not help.
const REFUSALS = new Set(["permission_denied", "not_found", "invalid_argument", "unauthenticated"]);

/** The calls for one account, with a token that renews itself. */
export class Account {
  readonly #endpoint: Endpoint;
  readonly #tokens: Tokens;
  readonly account: string;
  readonly balance: BalanceStore;
  readonly catalog: CatalogStore;

  constructor(options: AccountOptions) {
    this.#endpoint = {
      baseUrl: options.baseUrl.replace(/\/+$/, ""),
      // Bare `fetch` called as another object's method is an error in browsers.
      fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    };
    this.#tokens = new Tokens(options.getToken);
    this.account = options.account;
    this.balance = new BalanceStore(this, options.pollIntervalMs);
    this.catalog = new CatalogStore(this);
  }

  async getBalance(signal?: AbortSignal): Promise<Balance> {
    return balanceOf(await this.#call("Accounts/GetBalance", { accountId: this.account }, signal));
  }

  async getCatalog(signal?: AbortSignal): Promise<Catalog> {
    return catalogOf(await this.#call("Catalog/GetCatalog", {}, signal));
  }

  /** Newest first. */
  async listTransactions(pageSize: number, pageToken: string, signal?: AbortSignal): Promise<TransactionPage> {
    return pageOf(await this.#call("Accounts/ListTransactions", { accountId: this.account, pageSize, pageToken }, signal));
  }

  /** Balances until the stream fails, which is thrown, or until its token or the reader's patience ends, which is an end. */
  async *watch(signal: AbortSignal): AsyncGenerator<Balance> {
    const token = await this.#tokens.token();
    const own = new AbortController();
    const end = (): void => own.abort();
    signal.addEventListener("abort", end);
    // The next token is there before the stream with the old one ends; if it cannot be had, the stream lasts as long as it may.
    const stopRenewal = after(this.#tokens.renewsAtMs - Date.now(), () => void this.#tokens.token().then(end, () => undefined));
    const stopHiding = whenHidden(HIDDEN_MAX_MS, end);
    try {
      for await (const json of stream(this.#endpoint, token, "Accounts/Watch", { accountId: this.account }, own.signal)) yield balanceOf(json);
    } catch (error) {
      if ((error as CallError).code === "unauthenticated") this.#tokens.refuse(token);
      if (!own.signal.aborted) throw error;
    } finally {
      signal.removeEventListener("abort", end);
      stopRenewal();
      stopHiding();
    }
  }

  async #call(method: string, request: Json, signal?: AbortSignal): Promise<Json> {
    for (let isFirst = true; ; isFirst = false) {
      const token = await this.#tokens.token();
      try {
        return await unary(this.#endpoint, token, method, request, signal);
      } catch (error) {
        if ((error as CallError).code !== "unauthenticated") throw error;
        this.#tokens.refuse(token);
        if (!isFirst) throw error;
      }
    }
  }
}

/** The live balance of an account: one stream for a page, however many components show it. */
export class BalanceStore extends Store<BalanceState> {
  readonly #account: Account;
  readonly #pollIntervalMs: number;
  readonly #nudge = new EventTarget();
  // Counts balances told, so that a slow answer does not replace a newer one.
  #told = 0;

  constructor(account: Account, pollIntervalMs: number) {
    super({ status: "loading", balance: undefined, error: undefined, updatedAt: undefined });
    this.#account = account;
    this.#pollIntervalMs = pollIntervalMs;
  }

  /** Asks for the balance now, and ends a wait for the next try. Never throws: `error` says what went wrong. */
  readonly refresh = async (): Promise<void> => {
    this.#nudge.dispatchEvent(new Event("nudge"));
    const { status } = this.get();
    await this.#poll(status === "live" ? "live" : "polling");
  };

  protected async run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    let wasRefused = false;
    let streamAtMs = 0;
    // Of what was known when it was last shown.
    this.#lose(undefined);
    while (!signal.aborted) {
      if (isHidden()) {
        this.#lose(undefined);
        await wait(Number.POSITIVE_INFINITY, signal, this.#nudge);
        continue;
      }
      let error: CallError | undefined;
      if (Date.now() >= streamAtMs) {
        const told = this.#told;
        error = await this.#watch(signal);
        if (this.#told !== told) {
          failures = 0;
          wasRefused = false;
        }
        if (signal.aborted || !error) continue;
        if (error.code === "unauthenticated" && !wasRefused) {
          // With a new token, at once.
          wasRefused = true;
          continue;
        }
        this.#lose(error);
      }
      failures += 1;
      const isRefused = error !== undefined && REFUSALS.has(error.code);
      if (failures > 1 && !isRefused && (await this.#poll("polling", signal))) {
        if (error) streamAtMs = Date.now() + STREAM_AGAIN_MS;
        await wait(this.#pollIntervalMs, signal, this.#nudge);
      } else {
        streamAtMs = 0;
        await wait(backoffMs(failures), signal, this.#nudge);
      }
    }
  }

  /** What ended the stream; nothing if it is to be opened anew at once. */
  async #watch(signal: AbortSignal): Promise<CallError | undefined> {
    try {
      for await (const balance of this.#account.watch(signal)) this.#tell("live", balance);
      return undefined;
    } catch (error) {
      return error as CallError;
    }
  }

  async #poll(status: "live" | "polling", signal?: AbortSignal): Promise<boolean> {
    const told = this.#told;
    try {
      const balance = await this.#account.getBalance(signal);
      if (told === this.#told) this.#tell(status, balance);
      return true;
    } catch (error) {
      if (told === this.#told && !signal?.aborted) this.#lose(error as CallError);
      return false;
    }
  }

  #tell(status: BalanceStatus, balance: Balance): void {
    this.#told += 1;
    this.set({ status, balance, error: undefined, updatedAt: new Date() });
  }

  #lose(error: CallError | undefined): void {
    const state = this.get();
    if (!state.balance && !error) return;
    this.set({ ...state, status: state.balance ? "stale" : "error", error });
  }
}

/** The catalog, read when the first component needs it. */
export class CatalogStore extends Store<CatalogState> {
  readonly #account: Account;
  readonly #nudge = new EventTarget();

  constructor(account: Account) {
    super({ status: "loading", catalog: undefined, error: undefined });
    this.#account = account;
  }

  /** Ends a wait for the next try. */
  readonly retry = (): void => void this.#nudge.dispatchEvent(new Event("nudge"));

  protected async run(signal: AbortSignal): Promise<void> {
    for (let failures = 1; !signal.aborted; failures += 1) {
      try {
        const catalog = await this.#account.getCatalog(signal);
        this.set({ status: "ready", catalog, error: undefined });
        return;
      } catch (error) {
        if (signal.aborted) return;
        // A catalog that was read once is still the best there is.
        if (this.get().status !== "ready") this.set({ status: "error", catalog: undefined, error: error as CallError });
        await wait(backoffMs(failures), signal, this.#nudge);
      }
    }
  }
}
