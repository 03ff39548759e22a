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

/** A model call, priced by its tokens: those of the prompt, and at most `maxOutputTokens` of output. */
export interface ModelCharge {
  /** Such as "openai"; by default found from the model's name. */
  provider?: string;
  /** As it is sent to the provider. */
  model: string;
  /** Of the prompt, cached ones included; this or `prompt`. */
  inputTokens?: number;
  /** Counted by meterd, never stored; at most 1 MiB. */
  prompt?: string;
  maxOutputTokens?: number;
  /** If the wallet does not cover the most, a hold that covers at least this many will do. */
  minOutputTokens?: number;
  /** Such as "batch" or "flex". */
  serviceTier?: string;
  /** Further usage that is priced by class. */
  extra?: Usage;
}

/** Actions of a feature, at its fixed price. */
export interface FeatureCharge {
  feature: string;
  /** Actions, 1 if absent. */
  quantity?: number;
}

/** Units of a rate. */
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

/**
 * Sets credits aside. The same `holdId` again, with the same content, answers the same hold (`replayed`); with other content:
 * ConflictError.
 */
export interface ReserveRequest extends Priced {
  /** A UUIDv7. */
  holdId: string;
  accountId: string;
  /** That pays; by default the price book's, or "default". */
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

/** Charges what was used, and returns the rest. A repeat answers the same settlement (`replayed`); with other content: ConflictError. */
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

/** Returns all of a hold. A repeat answers the same settlement (`replayed`); after a Commit: HoldEndedError. */
export interface ReleaseRequest {
  holdId: string;
  reason?: string;
}

/** Gives a hold more life, or more credits. A repeat does no harm. */
export interface ExtendRequest {
  holdId: string;
  /** At least this long from now; a hold's life is never cut. */
  ttlMs: number;
  /** The new total of what is set aside. */
  amountMicros?: bigint | number;
}

/** The usage of a running call so far: cumulative, so that one which is lost or repeated does no harm. */
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

/**
 * Charges at once. The same key again, with the same content, answers the same settlement (`replayed`); with other content:
 * ConflictError.
 */
export interface ChargeRequest {
  /** A UUIDv7. */
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

/** Asks for a price, and with an account whether it would be denied. Touches nothing. */
export interface EstimateRequest extends Priced {
  accountId?: string;
  wallet?: string;
}

/** A part of an amount, and the grant that it came from. */
export interface GrantDraw {
  grantId: string;
  amountMicros: Micros;
}

/** Of one wallet, right after the call. */
export interface Balance {
  wallet: string;
  availableMicros: Micros;
  /** Set aside by open holds. */
  heldMicros: Micros;
  /** The account's number of ledger records so far; grows by one with each within an epoch. */
  seq: bigint;
  epoch: bigint;
}

/** Credits that are set aside. */
export interface HoldGrant {
  /** To be used in further calls: the id that was asked for, signed. */
  holdId: string;
  amountMicros: Micros;
  /** Decimal string; empty unless a model is charged. */
  costEstimateUsd: string;
  /** Output tokens that are covered: what to ask the provider for. */
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
  /** Output tokens that the wallet could cover after the input; 0 unless a model is charged. */
  affordableOutputTokens: number;
  /** When to try again, where that is known. */
  retryAt?: Date;
}

/** A class of a charge, with decimal strings. */
export interface CostLine {
  /** Such as "input", "cache_read", "output", "feature" or "rate". */
  usageClass: string;
  quantity: string;
  /** Of one unit: in USD (models) or in credits (features, rates). */
  unitPrice: string;
  /** Empty for features, rates and plain credits. */
  costUsd: string;
}

/** What a hold or a charge came to. */
export interface Settlement {
  settlementId: string;
  state?: HoldState;
  chargedMicros: Micros;
  /** Returned to the grants that it came from. */
  returnedMicros: Micros;
  /** Owed by the usage, but not covered by hold, wallet or overdraft; never charged later by itself. */
  uncollectedMicros: Micros;
  /**
   * Decimal string; empty unless a model is charged. This, `breakdown`, `usageState` and `priceVersion` may be missing in a replay that
   * comes before the record is in Postgres.
   */
  costUsd: string;
  breakdown: CostLine[];
  usageState?: UsageState;
  grants: GrantDraw[];
  priceVersion: string;
  holdId: string;
  settledAt?: Date;
  /** Not returned, because its grant had expired while it was held. */
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
  /** Further output tokens that are covered. */
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
