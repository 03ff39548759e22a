import type { Balance, Catalog, Feature, Package, Transaction, TransactionKind, TransactionPage, WalletBalance } from "./types.js";

/** Protobuf's JSON leaves out zeros and empty lists, and writes 64-bit numbers as strings. Fields that are not known are ignored. */
export type Json = { readonly [name: string]: unknown };

const DEFAULT_WALLET = "default";

const text = (json: Json, name: string): string => (typeof json[name] === "string" ? (json[name] as string) : "");
const flag = (json: Json, name: string): boolean => json[name] === true;
const count = (json: Json, name: string): number => Number(json[name] ?? 0);
const micros = (json: Json, name: string): bigint => BigInt((json[name] as string | number | undefined) ?? 0);
const time = (json: Json, name: string): Date | undefined => (json[name] ? new Date(text(json, name)) : undefined);
const list = <T>(json: Json, name: string, one: (json: Json) => T): T[] => ((json[name] as Json[] | undefined) ?? []).map(one);
const wallet = (json: Json): string => text(json, "wallet") || DEFAULT_WALLET;

export function balanceOf(json: Json): Balance {
  return {
    accountId: text(json, "accountId"),
    wallets: list(json, "wallets", walletOf),
    unlimited: flag(json, "unlimited"),
    planId: text(json, "planId"),
    actionsToday: count(json, "actionsToday"),
    actionsPerDay: count(json, "actionsPerDay"),
    refreshesAt: time(json, "refreshesAt"),
  };
}

function walletOf(json: Json): WalletBalance {
  return {
    wallet: wallet(json),
    availableMicros: micros(json, "availableMicros"),
    heldMicros: micros(json, "heldMicros"),
    refreshesAt: time(json, "refreshesAt"),
    allowanceMicros: micros(json, "allowanceMicros"),
    blocked: flag(json, "blocked"),
  };
}

export function catalogOf(json: Json): Catalog {
  return {
    version: text(json, "version"),
    packages: list(json, "packages", packageOf),
    features: list(json, "features", featureOf),
    lowBalanceMicros: micros((json["account"] as Json | undefined) ?? {}, "lowBalanceMicros"),
  };
}

function packageOf(json: Json): Package {
  return {
    packageId: text(json, "packageId"),
    name: text(json, "name"),
    amountMicros: micros(json, "amountMicros"),
    bonusMicros: micros(json, "bonusMicros"),
    price: text(json, "price"),
    currency: text(json, "currency"),
    discountPercent: text(json, "discountPercent"),
    flags: list(json, "flags", String),
    stripePrice: text(json, "stripePrice"),
    wallet: wallet(json),
    active: flag(json, "active"),
  };
}

function featureOf(json: Json): Feature {
  return {
    featureId: text(json, "featureId"),
    name: text(json, "name"),
    category: text(json, "category"),
    amountMicros: micros(json, "amountMicros"),
    unitMicros: text(json, "unitMicros") || text(json, "amountMicros") || "0",
    wallet: wallet(json),
    active: flag(json, "active"),
  };
}

export function pageOf(json: Json): TransactionPage {
  return { transactions: list(json, "transactions", transactionOf), nextPageToken: text(json, "nextPageToken") };
}

function transactionOf(json: Json): Transaction {
  return {
    transactionId: text(json, "transactionId"),
    kind: (text(json, "kind").replace(/^KIND_/, "") || "UNSPECIFIED") as TransactionKind,
    wallet: wallet(json),
    amountMicros: micros(json, "amountMicros"),
    availableAfterMicros: micros(json, "availableAfterMicros"),
    at: time(json, "at"),
    item: text(json, "item"),
  };
}
