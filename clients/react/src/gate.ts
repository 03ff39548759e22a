import { useState } from "react";
import { useBalance, useCatalog } from "./hooks.js";
import type { Balance, WalletBalance } from "./types.js";

/**
 * What is known before the call; the server's Reserve or Charge has the last word.
 * - `ok`: it is covered. - `unknown`: the balance cannot be read.
 * - `short`: the wallet has less than it costs. - `daily`: the plan's actions of the day are used up.
 */
export type Verdict = "ok" | "unknown" | "short" | "daily";

/** - `loading`: the price is not known yet. - `error`: it cannot be read. - `unavailable`: the catalog does not sell it. */
export type GateStatus = "loading" | "error" | "unavailable" | "ready";

export interface GateOptions {
  /** A feature of the catalog, which has its price, name and wallet. */
  feature?: string | undefined;
  /** Number of actions; default: 1. */
  quantity?: number | undefined;
  /** The price of what is no feature, such as the estimate of a model call. */
  costMicros?: bigint | undefined;
  /** What it is called; default: the feature's name. */
  name?: string | undefined;
  wallet?: string | undefined;
  /** Whether the reader is asked before; default: true. */
  confirm?: boolean | undefined;
  /** Does it: calls your backend, which charges. Rejects with an error of code "DENIED" or status 402 if meterd denied it. */
  onConfirm(): void | Promise<void>;
}

export interface Gate {
  status: GateStatus;
  name: string;
  costMicros: bigint;
  /** Nothing is taken from the wallet: it is free, or the plan pays. */
  isCovered: boolean;
  verdict: Verdict;
  /** What the wallet lacks; 0 unless the verdict is "short". */
  missingMicros: bigint;
  availableMicros: bigint | undefined;
  actionsPerDay: number;
  isOpen: boolean;
  isWorking: boolean;
  /** The last try failed, not for want of credits. */
  hasFailed: boolean;
  /** What the trigger does: asks, does it, or says why not. */
  open(): void;
  close(): void;
  confirm(): Promise<void>;
}

/** A gate without a look: <CreditGate> is made of it. */
export function useCreditGate({ feature: featureId, quantity = 1, costMicros, name, wallet, confirm: asks = true, onConfirm }: GateOptions): Gate {
  const catalog = useCatalog();
  const feature = catalog.catalog?.features.find((one) => one.featureId === featureId && one.active);
  const balance = useBalance({ wallet: wallet ?? feature?.wallet });
  const [isOpen, setOpen] = useState(false);
  const [isWorking, setWorking] = useState(false);
  const [hasFailed, setFailed] = useState(false);
  // The balance that the server denied it at: until that changes, its word counts.
  const [deniedAt, setDeniedAt] = useState<Balance | undefined>();

  const cost = costMicros ?? (feature ? chargeMicros(feature.unitMicros, quantity) : 0n);
  const status = costMicros !== undefined ? "ready" : statusOf();
  const found = decided(cost, balance.balance, balance.wallet);
  const isDenied = deniedAt !== undefined && deniedAt === balance.balance;
  const verdict = isDenied && found === "ok" ? "short" : found;
  const available = balance.availableMicros;
  const missing = verdict === "short" && available !== undefined && available < cost ? cost - available : 0n;
  return {
    status,
    name: name ?? feature?.name ?? featureId ?? "",
    costMicros: cost,
    isCovered: cost === 0n || balance.unlimited,
    verdict,
    missingMicros: missing,
    availableMicros: available,
    actionsPerDay: balance.balance?.actionsPerDay ?? 0,
    isOpen,
    isWorking,
    hasFailed,
    open,
    close: () => setOpen(false),
    confirm: act,
  };

  function statusOf(): GateStatus {
    if (catalog.status === "ready") return feature ? "ready" : "unavailable";
    return catalog.status;
  }

  function open(): void {
    if (isWorking) return;
    if (status === "error") return catalog.retry();
    if (status !== "ready") return;
    setFailed(false);
    if (asks || verdict === "short" || verdict === "daily") setOpen(true);
    else void act();
  }

  async function act(): Promise<void> {
    if (isWorking) return;
    setWorking(true);
    setFailed(false);
    try {
      await onConfirm();
      setOpen(false);
    } catch (error) {
      if (isDenial(error)) setDeniedAt(balance.balance);
      else setFailed(true);
      setOpen(true);
    } finally {
      setWorking(false);
    }
    if (balance.status !== "live") void balance.refresh();
  }
}

/** What the server charges: the exact price times the number of actions, rounded up once. */
export function chargeMicros(unitMicros: string, quantity: number): bigint {
  const [whole = "0", part = ""] = unitMicros.split(".");
  const divisor = 10n ** BigInt(part.length);
  return (BigInt(whole + part) * BigInt(quantity) + divisor - 1n) / divisor;
}

function decided(cost: bigint, balance: Balance | undefined, wallet: WalletBalance | undefined): Verdict {
  if (!balance || !wallet) return "unknown";
  if (balance.actionsPerDay > 0 && balance.actionsToday >= balance.actionsPerDay) return "daily";
  if (balance.unlimited || cost === 0n || wallet.availableMicros >= cost) return "ok";
  return "short";
}

function isDenial(error: unknown): boolean {
  const { code, status } = (error ?? {}) as { code?: unknown; status?: unknown };
  return code === "DENIED" || status === 402;
}
