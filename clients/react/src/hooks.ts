import { useSyncExternalStore } from "react";
import type { BalanceStatus, CatalogState } from "./account.js";
import { useMeterd } from "./provider.js";
import type { Balance, WalletBalance } from "./types.js";
import type { CallError } from "./wire.js";

export const DEFAULT_WALLET = "default";

export interface UseBalance {
  status: BalanceStatus;
  /** All wallets; undefined until it is known. */
  balance: Balance | undefined;
  /** The wallet that was asked for; one that has had no grant yet is empty. */
  wallet: WalletBalance | undefined;
  availableMicros: bigint | undefined;
  heldMicros: bigint | undefined;
  unlimited: boolean;
  error: CallError | undefined;
  /** When meterd last told it. */
  updatedAt: Date | undefined;
  /** Asks for it now. Not needed while it is live. */
  refresh(): Promise<void>;
}

/** The account's balance in a wallet, live. */
export function useBalance({ wallet: name = DEFAULT_WALLET }: { wallet?: string | undefined } = {}): UseBalance {
  const store = useMeterd().account.balance;
  const state = useSyncExternalStore(store.subscribe, store.get, store.get);
  const wallet = state.balance && walletOf(state.balance, name);
  return {
    ...state,
    wallet,
    availableMicros: wallet?.availableMicros,
    heldMicros: wallet?.heldMicros,
    unlimited: state.balance?.unlimited ?? false,
    refresh: store.refresh,
  };
}

/** The tenant's catalog, read once. */
export function useCatalog(): CatalogState & { retry(): void } {
  const store = useMeterd().account.catalog;
  const state = useSyncExternalStore(store.subscribe, store.get, store.get);
  return { ...state, retry: store.retry };
}

function walletOf(balance: Balance, name: string): WalletBalance {
  const empty = { wallet: name, availableMicros: 0n, heldMicros: 0n, refreshesAt: undefined, allowanceMicros: 0n, blocked: false };
  return balance.wallets.find((one) => one.wallet === name) ?? empty;
}
