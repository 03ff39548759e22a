import type { Package, Transaction } from "./types.js";

/** Every word of the kit. Amounts come formatted. */
export interface Labels {
  /** `isOne`: the amount is exactly 1. */
  credits(amount: string, isOne: boolean): string;
  available(credits: string): string;
  held(amount: string): string;
  unlimited: string;
  free: string;
  included: string;
  loading: string;
  retry: string;
  balanceError: string;
  balanceStale(time: string): string;
  low: string;
  confirmTitle(name: string): string;
  confirmText(credits: string): string;
  confirmFree: string;
  confirmUnknown: string;
  balanceAfter: string;
  balanceNow: string;
  costs: string;
  confirm: string;
  working: string;
  cancel: string;
  close: string;
  failed: string;
  shortTitle: string;
  shortText(missing: string): string;
  dailyTitle: string;
  dailyText(perDay: number): string;
  buy: string;
  buyPackage(pack: string): string;
  unavailable: string;
  packages: string;
  packagesError: string;
  packagesEmpty: string;
  bonus(credits: string): string;
  discount(percent: string): string;
  flag(flag: string): string;
  history: string;
  historyError: string;
  historyEmpty: string;
  historyMore: string;
  historyAdded(count: number): string;
  historyAll: string;
  after(amount: string): string;
  kinds: Record<Transaction["kind"], string>;
  /** `item` is such as "feature:cover_letter"; `feature` is its name in the catalog, if it is a feature. */
  item(item: string, feature: string | undefined): string;
}

export const english: Labels = {
  credits: (amount, isOne) => `${amount} ${isOne ? "credit" : "credits"}`,
  available: (credits) => `${credits} available`,
  held: (amount) => `${amount} on hold`,
  unlimited: "Unlimited",
  free: "Free",
  included: "Included",
  loading: "Loading…",
  retry: "Try again",
  balanceError: "Balance unavailable",
  balanceStale: (time) => `Reconnecting. As of ${time}.`,
  low: "Low balance",
  confirmTitle: (name) => `${name}?`,
  confirmText: (credits) => `This uses ${credits}.`,
  confirmFree: "This is free of charge.",
  confirmUnknown: "Your balance cannot be read right now. Nothing is charged if it does not suffice.",
  balanceAfter: "Balance after",
  balanceNow: "Your balance",
  costs: "Cost",
  confirm: "Confirm",
  working: "Working…",
  cancel: "Cancel",
  close: "Close",
  failed: "That did not work. You can try again.",
  shortTitle: "Not enough credits",
  shortText: (missing) => `You need ${missing} more for this.`,
  dailyTitle: "Daily limit reached",
  dailyText: (perDay) => `Your plan allows ${perDay} actions a day. More tomorrow.`,
  buy: "Buy credits",
  buyPackage: (pack) => `Buy ${pack}`,
  unavailable: "Not available",
  packages: "Credit packages",
  packagesError: "Packages could not be loaded.",
  packagesEmpty: "There is nothing to buy right now.",
  bonus: (credits) => `+ ${credits} bonus`,
  discount: (percent) => `Save ${percent}%`,
  flag: (flag) => flag.charAt(0).toUpperCase() + flag.slice(1).replaceAll("_", " "),
  history: "Credit history",
  historyError: "History could not be loaded.",
  historyEmpty: "Nothing yet. Grants and charges appear here.",
  historyMore: "Show more",
  historyAdded: (count) => `${count} more entries`,
  historyAll: "That is all.",
  after: (amount) => `Balance ${amount}`,
  kinds: {
    COMMIT: "Usage",
    COMMIT_LATE: "Usage",
    RELEASE: "Released",
    EXPIRE: "Usage",
    CHARGE: "Usage",
    GRANT: "Credits added",
    REVOKE: "Credits taken back",
    GRANT_EXPIRE: "Credits expired",
    SETTINGS: "Settings changed",
    TRANSFER: "Given away",
    CLAW_BACK: "Credits taken back",
    UNSPECIFIED: "Other",
  },
  item: (item, feature) => feature ?? item.replace(/^\w+:/, ""),
};

/** What a package is called in a sentence. */
export const packageTitle = (pack: Package): string => pack.name || pack.packageId;
