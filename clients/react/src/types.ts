/** What the kit shows, in the words of `protos/meterd/v1`. Amounts are micro-credits: 1 credit is 1,000,000. */

export interface WalletBalance {
  wallet: string;
  /** What a call could take now. Below zero only after a claw-back or an overdraft. */
  availableMicros: bigint;
  /** Set aside by calls that have not ended. */
  heldMicros: bigint;
  /** When the plan grants its allowance anew. */
  refreshesAt: Date | undefined;
  /** Of the plan's present period; 0 if it has none for this wallet. */
  allowanceMicros: bigint;
  /** The plan gives nothing to this wallet: only other grants count. */
  blocked: boolean;
}

export interface Balance {
  accountId: string;
  wallets: WalletBalance[];
  /** The account's plan makes its calls free of charge. */
  unlimited: boolean;
  planId: string;
  /** Actions of this UTC day, and how many the plan allows; 0: no limit. */
  actionsToday: number;
  actionsPerDay: number;
  refreshesAt: Date | undefined;
}

export interface Package {
  packageId: string;
  name: string;
  amountMicros: bigint;
  /** Granted besides. */
  bonusMicros: bigint;
  /** Decimal, in the currency's major unit, such as "19.00". */
  price: string;
  /** ISO 4217, lower case. */
  currency: string;
  /** Percent saved, as a decimal; empty: none. */
  discountPercent: string;
  flags: string[];
  stripePrice: string;
  wallet: string;
  active: boolean;
}

export interface Feature {
  featureId: string;
  name: string;
  category: string;
  /** What one action is charged. */
  amountMicros: bigint;
  /** The exact price of an action, a decimal: several actions are charged this times their number, rounded up. */
  unitMicros: string;
  wallet: string;
  active: boolean;
}

export interface Catalog {
  /** Names the content; empty: nothing was ever applied. */
  version: string;
  packages: Package[];
  features: Feature[];
  /** A balance below it is low; 0: no notice. */
  lowBalanceMicros: bigint;
}

export type TransactionKind =
  | "COMMIT"
  | "COMMIT_LATE"
  | "RELEASE"
  | "EXPIRE"
  | "CHARGE"
  | "GRANT"
  | "REVOKE"
  | "GRANT_EXPIRE"
  | "SETTINGS"
  | "TRANSFER"
  | "CLAW_BACK"
  | "UNSPECIFIED";

export interface Transaction {
  transactionId: string;
  kind: TransactionKind;
  wallet: string;
  /** What it added to (+) or took from (−) the account. */
  amountMicros: bigint;
  availableAfterMicros: bigint;
  at: Date | undefined;
  /** What was charged, such as "model:gpt-4o-mini" or "feature:cover_letter". */
  item: string;
}

export interface TransactionPage {
  transactions: Transaction[];
  /** Empty: this was the last page. */
  nextPageToken: string;
}
