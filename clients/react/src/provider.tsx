import { type ReactNode, createContext, useContext, useEffect, useMemo, useRef } from "react";
import { Account } from "./account.js";
import { type CreditsFormat, formatCredits } from "./format.js";
import { type Labels, english } from "./labels.js";
import type { GetToken } from "./tokens.js";

interface Common {
  /** meterd's HTTP address, such as "https://meterd.example.com". Its `http_cors_origins` has to name this page. */
  baseUrl: string;
  account: string;
  /** Of numbers, prices and times; default: the browser's. */
  locale?: string;
  /** Decimals of credits, at most; default: 2. */
  decimalsMax?: number;
  /** Words of your own, or of another language. */
  labels?: Partial<Labels>;
  /** Between two readings of the balance while no stream gets through; default: 10,000. */
  pollIntervalMs?: number;
  fetch?: typeof globalThis.fetch;
  children?: ReactNode;
}

/** `getToken` is called for the first token and again before each expires; `token` is for pages that live shorter than it. */
export type MeterdProviderProps = Common & ({ getToken: GetToken; token?: undefined } | { token: string; getToken?: undefined });

export interface Meterd {
  account: Account;
  labels: Labels;
  locale: string | undefined;
  /** "1,234.5" */
  amount(micros: bigint, options?: CreditsFormat): string;
  /** "1,234.5 credits" */
  credits(micros: bigint, options?: CreditsFormat): string;
}

const Context = createContext<Meterd | undefined>(undefined);
const POLL_INTERVAL_MS = 10_000;

/** One account for all components below: they share one stream, one token and one catalog. */
export function MeterdProvider(props: MeterdProviderProps): ReactNode {
  const { baseUrl, account: accountId, token, getToken, locale, decimalsMax, labels: own, pollIntervalMs = POLL_INTERVAL_MS, fetch, children } = props;
  // A function written in place is another one at each rendering, and no reason to connect anew.
  const latest = useRef(getToken);
  useEffect(() => {
    latest.current = getToken;
  });
  const account = useMemo(() => {
    const get: GetToken = () => token ?? latest.current?.() ?? "";
    return new Account({ baseUrl, account: accountId, getToken: get, pollIntervalMs, fetch });
  }, [baseUrl, accountId, token, pollIntervalMs, fetch]);
  const value = useMemo((): Meterd => {
    const labels = { ...english, ...own };
    const amount = (micros: bigint, options?: CreditsFormat): string => formatCredits(micros, { locale, decimalsMax, ...options });
    const credits = (micros: bigint, options?: CreditsFormat): string => labels.credits(amount(micros, options), micros === 1_000_000n);
    return { account, labels, locale, amount, credits };
  }, [account, locale, decimalsMax, own]);
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

/** The account, the words and the formats of the provider above. */
export function useMeterd(): Meterd {
  const found = useContext(Context);
  if (!found) throw new Error("there is no <MeterdProvider> above this component");
  return found;
}
