import type { ReactNode } from "react";
import { formatTime } from "./format.js";
import { type UseBalance, useBalance, useCatalog } from "./hooks.js";
import { Announced, classes } from "./parts.js";
import { useMeterd } from "./provider.js";

export interface BalanceBadgeProps {
  wallet?: string;
  /** Below it the balance counts as low; default: the catalog's `low_balance`. */
  lowMicros?: bigint;
  /** What calls in progress have set aside, beside the balance. */
  showHeld?: boolean;
  className?: string;
  classNames?: { amount?: string; held?: string; note?: string };
  /** What is seen instead of amount and held; screen readers are told the balance all the same. */
  children?: (state: UseBalance & { text: string; isLow: boolean }) => ReactNode;
}

/** The live balance. `data-state` is the status of useBalance; `data-low` is there if it is low. */
export function BalanceBadge({ wallet, lowMicros, showHeld = false, className, classNames = {}, children }: BalanceBadgeProps): ReactNode {
  const { labels, amount, credits, locale } = useMeterd();
  const state = useBalance({ wallet });
  const catalog = useCatalog().catalog;
  const { status, availableMicros: available, heldMicros: held = 0n, unlimited, updatedAt } = state;
  const isLow = available !== undefined && !unlimited && available < (lowMicros ?? catalog?.lowBalanceMicros ?? 0n);
  const text = textOf();
  const note = status === "stale" && updatedAt ? labels.balanceStale(formatTime(updatedAt, locale)) : undefined;
  return (
    <span
      className={classes("meterd-badge", className)}
      data-state={status}
      data-low={isLow || undefined}
      data-unlimited={unlimited || undefined}
      aria-busy={status === "loading" || undefined}
      title={note}
    >
      <span aria-hidden="true" className="meterd-badge-view">
        {children ? children({ ...state, text, isLow }) : seen()}
      </span>
      <Announced>{spoken()}</Announced>
    </span>
  );

  function textOf(): string {
    if (unlimited) return labels.unlimited;
    if (available !== undefined) return credits(available);
    return status === "error" ? labels.balanceError : labels.loading;
  }

  function spoken(): string {
    if (available === undefined || unlimited) return text;
    return [labels.available(text), showHeld && held > 0n && labels.held(amount(held)), isLow && labels.low, note].filter(Boolean).join(", ");
  }

  function seen(): ReactNode {
    return (
      <>
        <span className="meterd-badge-dot" />
        <span className={classes("meterd-badge-amount", classNames.amount)}>{text}</span>
        {showHeld && held > 0n && <span className={classes("meterd-badge-held", classNames.held)}>{labels.held(amount(held))}</span>}
        {isLow && <span className={classes("meterd-badge-note", classNames.note)}>{labels.low}</span>}
      </>
    );
  }
}
