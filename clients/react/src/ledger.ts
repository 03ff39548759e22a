import { useCallback, useEffect, useRef, useState } from "react";
import type { Account } from "./account.js";
import { useBalance } from "./hooks.js";
import { useMeterd } from "./provider.js";
import type { Transaction, TransactionPage } from "./types.js";
import type { CallError } from "./wire.js";

export interface HistoryOptions {
  /** 1 to 1000; default: 20. */
  pageSize?: number | undefined;
  /** Default: what has changed the balance. */
  filter?: ((transaction: Transaction) => boolean) | undefined;
}

export interface History {
  status: "loading" | "error" | "ready";
  /** Newest first. */
  transactions: Transaction[];
  hasMore: boolean;
  isLoadingMore: boolean;
  error: CallError | undefined;
  /** The next page; resolves with the number of entries that it added. */
  loadMore(): Promise<number>;
  /** The first page anew. */
  reload(): Promise<void>;
}

interface Loaded {
  account: Account;
  transactions: Transaction[];
  nextPageToken: string;
}

// The ledger's records reach the history some moments after the balance: it is looked for twice.
const LOOK_AFTER_MS = [400, 2_500];
// A page of which the filter leaves nothing is followed by the next; so many at most for one wish.
const PAGES_MAX = 10;

const changedBalance = (transaction: Transaction): boolean => transaction.amountMicros !== 0n;

/** The account's ledger by pages; new entries come in by themselves. */
export function useHistory({ pageSize = 20, filter = changedBalance }: HistoryOptions = {}): History {
  const { account } = useMeterd();
  const { balance } = useBalance();
  const [loaded, setLoaded] = useState<Loaded | undefined>();
  const [error, setError] = useState<CallError | undefined>();
  const [isLoadingMore, setLoadingMore] = useState(false);
  // Entries of another account must not be seen for a moment.
  const current = loaded?.account === account ? loaded : undefined;
  const isFirst = !current && !error;
  const latest = useRef({ current, filter, isFirst });
  useEffect(() => {
    latest.current = { current, filter, isFirst };
  });

  const reload = useCallback(
    async (signal?: AbortSignal): Promise<void> => {
      try {
        const page = await account.listTransactions(pageSize, "", signal);
        if (signal?.aborted) return;
        setLoaded((known) => joined(account, page, known?.account === account ? known : undefined));
        setError(undefined);
      } catch (caught) {
        if (!signal?.aborted) setError(caught as CallError);
      }
    },
    [account, pageSize],
  );

  useEffect(() => {
    const controller = new AbortController();
    void reload(controller.signal);
    return () => controller.abort();
  }, [reload]);

  useEffect(() => {
    if (!balance || latest.current.isFirst) return;
    const controller = new AbortController();
    const timers = LOOK_AFTER_MS.map((ms) => setTimeout(() => void reload(controller.signal), ms));
    return () => {
      timers.forEach(clearTimeout);
      controller.abort();
    };
  }, [balance, reload]);

  const loadMore = useCallback(async (): Promise<number> => {
    const { current: known, filter: wanted } = latest.current;
    if (!known?.nextPageToken) return 0;
    setLoadingMore(true);
    try {
      const found = await following(account, pageSize, known.nextPageToken, wanted);
      setLoaded((now) => (now?.nextPageToken === known.nextPageToken ? appended(now, found) : now));
      setError(undefined);
      return found.transactions.filter(wanted).length;
    } catch (caught) {
      setError(caught as CallError);
      return 0;
    } finally {
      setLoadingMore(false);
    }
  }, [account, pageSize]);

  return {
    status: current ? "ready" : error ? "error" : "loading",
    transactions: current?.transactions.filter(filter) ?? [],
    hasMore: Boolean(current?.nextPageToken),
    isLoadingMore,
    error,
    loadMore,
    reload,
  };
}

/** A first page on top of what is known; alone if there is a gap between them. */
function joined(account: Account, page: TransactionPage, known: Loaded | undefined): Loaded {
  const ids = new Set(known?.transactions.map((one) => one.transactionId));
  const added = page.transactions.filter((one) => !ids.has(one.transactionId));
  if (!known || (added.length === page.transactions.length && page.nextPageToken)) return { account, ...page };
  return added.length > 0 ? appended({ ...known, transactions: added }, known) : known;
}

function appended(known: Loaded, page: TransactionPage): Loaded {
  return { account: known.account, transactions: [...known.transactions, ...page.transactions], nextPageToken: page.nextPageToken };
}

async function following(account: Account, pageSize: number, pageToken: string, wanted: (one: Transaction) => boolean): Promise<TransactionPage> {
  const found: TransactionPage = { transactions: [], nextPageToken: pageToken };
  for (let count = 0; count < PAGES_MAX && found.nextPageToken; count += 1) {
    const page = await account.listTransactions(pageSize, found.nextPageToken);
    found.transactions.push(...page.transactions);
    found.nextPageToken = page.nextPageToken;
    if (page.transactions.some(wanted)) break;
  }
  return found;
}
