/**
 * The client's words: plain objects, the same over every wire.
 *
 * Amounts are bigint micro-credits (`…Micros`), exact USD is a decimal string, token counts are numbers, times are Dates, durations are
 * milliseconds (`…Ms`). In requests an amount may also be a safe integer.
 */

export type Micros = bigint;

export type OveragePolicy = "CAP" | "DRAW" | "OVERDRAFT";
export type ExpiryPolicy = "RELEASE" | "CHARGE_REPORTED" | "CHARGE_ESTIMATE";
export type UsageState = "REPORTED" | "PARTIAL" | "ESTIMATED" | "ABSENT";
export type HoldState = "OPEN" | "COMMITTED" | "COMMITTED_LATE" | "RELEASED" | "EXPIRED";
export type Advice = "CONTINUE" | "SHRINK" | "STOP";
export type DenialCode =
  | "INSUFFICIENT_CREDITS"
  | "ACCOUNT_FROZEN"
  | "TOO_MANY_HOLDS"
  | "WALLET_BLOCKED"
  | "ACTIONS_PER_DAY"
  | "LIMIT_EXCEEDED";

/** Who or what inside the account acts. */
export interface Subject {
  user?: string;
  team?: string;
  /** The caller's own name of an API key of its product, never a secret. */
  key?: string;
  /** One logical operation across its retries and provider fallbacks. */
  operationId?: string;
  labels?: Record<string, string>;
}

/** Counts by token class. `inputTokens` and `outputTokens` are totals: they include the classes below them. */
export interface Usage {
  inputTokens?: number;
  cacheReadTokens?: number;
  cacheWriteTokens?: number;
  cacheWrite1hTokens?: number;
  outputTokens?: number;
  reasoningTokens?: number;
  inputAudioTokens?: number;
  cacheAudioReadTokens?: number;
  outputAudioTokens?: number;
  inputImageTokens?: number;
  outputImageTokens?: number;
  inputVideoTokens?: number;
  webSearches?: number;
  requests?: number;
  cacheImageReadTokens?: number;
  outputVideoTokens?: number;
  citationTokens?: number;
  storageSearches?: number;
}

export interface ModelCharge {
  provider?: string;
  model: string;
  inputTokens?: number;
  /** Counted by meterd, never stored; at most 1 MiB. */
  prompt?: string;
  maxOutputTokens?: number;
  minOutputTokens?: number;
  serviceTier?: string;
  extra?: Usage;
}

export interface FeatureCharge {
  feature: string;
  quantity?: number;
}

export interface RateCharge {
  rate: string;
  /** Decimal string, such as "12.5". */
  quantity: string;
}

export interface CreditsCharge {
  amountMicros: bigint | number;
}

/** What is charged: one of these. */
export interface Priced {
  model?: ModelCharge;
  feature?: FeatureCharge;
  rate?: RateCharge;
  credits?: CreditsCharge;
}

export interface ReserveRequest extends Priced {
  holdId: string;
  accountId: string;
  wallet?: string;
  subject?: Subject;
  ttlMs: number;
  overagePolicy?: OveragePolicy;
  expiryPolicy?: ExpiryPolicy;
  metadata?: Record<string, string>;
}

export interface ReportedUsage {
  usage?: Usage;
  usageState?: UsageState;
}

export interface ProviderResponse {
  provider?: string;
  apiFlavor?: string;
  /** UTF-8 JSON, at most 256 KiB. */
  json: Uint8Array;
}

export interface CommitRequest {
  holdId: string;
  usage?: ReportedUsage;
  providerResponse?: ProviderResponse;
  amountMicros?: bigint | number;
  quantity?: string;
  model?: string;
  provider?: string;
  serviceTier?: string;
}

export interface ReleaseRequest {
  holdId: string;
  reason?: string;
}

export interface ExtendRequest {
  holdId: string;
  ttlMs: number;
  amountMicros?: bigint | number;
}

export interface ReportRequest {
  holdId: string;
  usage: Usage;
  model?: string;
  provider?: string;
}

export interface ModelUsage {
  provider?: string;
  model: string;
  usage?: ReportedUsage;
  providerResponse?: ProviderResponse;
  serviceTier?: string;
}

export interface ChargeRequest {
  idempotencyKey: string;
  accountId: string;
  wallet?: string;
  subject?: Subject;
  feature?: FeatureCharge;
  rate?: RateCharge;
  credits?: CreditsCharge;
  modelUsage?: ModelUsage;
  /** Without one a charge that is not covered is denied. */
  overagePolicy?: OveragePolicy;
  metadata?: Record<string, string>;
}

export interface EstimateRequest extends Priced {
  accountId?: string;
  wallet?: string;
}

export interface GrantDraw {
  grantId: string;
  amountMicros: Micros;
}

export interface Balance {
  wallet: string;
  availableMicros: Micros;
  heldMicros: Micros;
  seq: bigint;
  epoch: bigint;
}

export interface HoldGrant {
  holdId: string;
  amountMicros: Micros;
  costEstimateUsd: string;
  maxOutputTokens: number;
  priceVersion: string;
  expiresAt?: Date;
  grants: GrantDraw[];
  state?: HoldState;
  accountId: string;
  wallet: string;
  createdAt?: Date;
  unlimited: boolean;
  /** Of the prompt, as given or as meterd counted it; 0 unless a model is charged. */
  inputTokens: number;
}

export interface DenialReason {
  code?: DenialCode;
  /** What failed, such as "wallet:default", "account" or "user:alice". */
  scope: string;
  limitMicros: Micros;
  usedMicros: Micros;
  resetsAt?: Date;
  limitId: string;
  metric?: string;
  window?: string;
}

/** Why a call was not granted: an answer, not a fault. */
export interface Denial {
  reasons: DenialReason[];
  availableMicros: Micros;
  requiredMicros: Micros;
  affordableOutputTokens: number;
  retryAt?: Date;
}

export interface CostLine {
  usageClass: string;
  quantity: string;
  unitPrice: string;
  costUsd: string;
}

export interface Settlement {
  settlementId: string;
  state?: HoldState;
  chargedMicros: Micros;
  returnedMicros: Micros;
  uncollectedMicros: Micros;
  costUsd: string;
  breakdown: CostLine[];
  usageState?: UsageState;
  grants: GrantDraw[];
  priceVersion: string;
  holdId: string;
  settledAt?: Date;
  forfeitedMicros: Micros;
}

export interface ReserveReply {
  hold?: HoldGrant;
  denial?: Denial;
  replayed: boolean;
  balance?: Balance;
}

export interface SettleReply {
  settlement?: Settlement;
  replayed: boolean;
  balance?: Balance;
}

export interface ExtendReply {
  hold?: HoldGrant;
  denial?: Denial;
  balance?: Balance;
}

export interface ReportReply {
  advice?: Advice;
  affordableOutputTokens: number;
  usedMicros: Micros;
  expiresAt?: Date;
  balance?: Balance;
}

export interface ChargeReply {
  settlement?: Settlement;
  denial?: Denial;
  replayed: boolean;
  balance?: Balance;
}

export interface EstimateReply {
  amountMicros: Micros;
  costEstimateUsd: string;
  priceVersion: string;
  denial?: Denial;
  breakdown: CostLine[];
  balance?: Balance;
  inputTokens: number;
}

/** Every call of the client: its request and its reply. */
export interface Calls {
  Reserve: [ReserveRequest, ReserveReply];
  Commit: [CommitRequest, SettleReply];
  Release: [ReleaseRequest, SettleReply];
  Extend: [ExtendRequest, ExtendReply];
  Report: [ReportRequest, ReportReply];
  Charge: [ChargeRequest, ChargeReply];
  Estimate: [EstimateRequest, EstimateReply];
}

export type Method = keyof Calls;

/** One attempt of one call over some wire. Fails with a MeterError. */
export type Wire = <M extends Method>(method: M, request: Calls[M][0], timeoutMs: number) => Promise<Calls[M][1]>;
