"use client";

export { BalanceBadge, type BalanceBadgeProps } from "./BalanceBadge.js";
export { CreditGate, type CreditGateProps, type GatePart } from "./CreditGate.js";
export { History, type HistoryPart, type HistoryProps } from "./History.js";
export { type PackagePart, Packages, type PackagesProps } from "./Packages.js";
export type { BalanceState, BalanceStatus, CatalogState } from "./account.js";
export { type CreditsFormat, formatCredits, formatPrice } from "./format.js";
export { type Gate, type GateOptions, type GateStatus, type Verdict, useCreditGate } from "./gate.js";
export { type History as HistoryState, type HistoryOptions, useHistory } from "./ledger.js";
export { type UseBalance, useBalance, useCatalog } from "./hooks.js";
export { type Labels, english } from "./labels.js";
export { type Meterd, MeterdProvider, type MeterdProviderProps, useMeterd } from "./provider.js";
export type { GetToken, TokenAnswer } from "./tokens.js";
export type * from "./types.js";
export { CallError } from "./wire.js";
