import { CallError } from "./wire.js";

/** What `getToken` answers: a token of Accounts.CreateToken, alone or with its expiry. */
/** `expiresAt` is a Date, an RFC 3339 text or milliseconds since 1970; without it a token's own times are read. */
export type TokenAnswer = string | { token: string; expiresAt?: Date | string | number };
export type GetToken = () => TokenAnswer | Promise<TokenAnswer>;

// Renewed at this share of its life, or this long before its end if that is later: clocks differ, and requests take time.
const RENEW_SHARE = 0.8;
const RENEW_BEFORE_MS = 60_000;
// A page whose clock is wrong must not ask without end.
const RENEW_AFTER_MIN_MS = 1_000;
// A token without a known expiry is kept until a call is refused.
const NEVER = Number.POSITIVE_INFINITY;

/** One token for all calls of a page, asked for anew before it expires, and by one caller at a time. */
export class Tokens {
  #get: GetToken;
  #token = "";
  #renewsAtMs = 0;
  #asked: Promise<string> | undefined;

  constructor(get: GetToken) {
    this.#get = get;
  }

  /** When the present token has to be renewed, in ms since 1970; Infinity if nobody knows. */
  get renewsAtMs(): number {
    return this.#renewsAtMs;
  }

  /** A token that is good as far as is known. CallError "unavailable": `getToken` failed. */
  async token(): Promise<string> {
    if (this.#token && Date.now() < this.#renewsAtMs) return this.#token;
    this.#asked ??= this.#ask().finally(() => (this.#asked = undefined));
    return this.#asked;
  }

  /** Forgets a token that a call was refused with; another one that has come meanwhile stays. */
  refuse(token: string): void {
    if (token === this.#token) this.#token = "";
  }

  async #ask(): Promise<string> {
    let answer: TokenAnswer;
    try {
      answer = await this.#get();
    } catch (cause) {
      throw new CallError("unavailable", `getToken: ${String(cause)}`, { cause });
    }
    const token = typeof answer === "string" ? answer : answer.token;
    const nowMs = Date.now();
    const given = typeof answer === "string" ? undefined : answer.expiresAt;
    const leftMs = (given === undefined ? lifetimeOf(token) : new Date(given).getTime() - nowMs) || NEVER;
    this.#token = token;
    this.#renewsAtMs = nowMs + Math.max(leftMs * RENEW_SHARE, leftMs - RENEW_BEFORE_MS, RENEW_AFTER_MIN_MS);
    return token;
  }
}

/** How long a new token lasts, as it says itself: the difference of its two times, so that a page's wrong clock does not matter. */
function lifetimeOf(token: string): number {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const { iat, exp } = JSON.parse(atob(payload)) as { iat: number; exp: number };
    return (exp - iat) * 1000;
  } catch {
    return NEVER;
  }
}
