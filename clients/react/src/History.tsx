import { type ReactNode, useEffect, useRef, useState } from "react";
import { formatTime } from "./format.js";
import { type HistoryOptions, useHistory } from "./ledger.js";
import { useCatalog } from "./hooks.js";
import { Failure, Skeleton, Unseen, classes } from "./parts.js";
import { type Meterd, useMeterd } from "./provider.js";
import type { Catalog, Transaction } from "./types.js";

export type HistoryPart = "list" | "entry" | "title" | "time" | "amount" | "after" | "more";

export interface HistoryProps extends HistoryOptions {
  /** An entry's content. */
  children?: (transaction: Transaction) => ReactNode;
  empty?: ReactNode;
  className?: string;
  classNames?: Partial<Record<HistoryPart, string>>;
}

/** What came and went, newest first, a page at a time. */
export function History({ children, empty, className, classNames = {}, ...options }: HistoryProps): ReactNode {
  const meterd = useMeterd();
  const { labels } = meterd;
  const { catalog } = useCatalog();
  const history = useHistory(options);
  const { status, transactions, hasMore, isLoadingMore, error } = history;
  const [told, setTold] = useState("");
  const list = useRef<HTMLUListElement>(null);
  // The first entry of the page that came last, if its button went with it.
  const focusIndex = useRef(-1);
  useEffect(() => {
    if (hasMore || focusIndex.current < 0) return;
    (list.current?.children[focusIndex.current] as HTMLElement | undefined)?.focus();
    focusIndex.current = -1;
  }, [hasMore]);
  const part = (name: HistoryPart): string => classes(`meterd-history-${name}`, classNames[name]);
  return (
    <section className={classes("meterd-history", className)} aria-label={labels.history} data-state={status}>
      {status === "loading" && <Skeleton count={4} label={labels.loading} className="meterd-history-list" />}
      {status === "ready" && transactions.length === 0 && !hasMore && <p className="meterd-empty">{empty ?? labels.historyEmpty}</p>}
      {transactions.length > 0 && (
        <ul role="list" ref={list} className={part("list")}>
          {transactions.map((one) => (
            <li key={one.transactionId} tabIndex={-1} className={part("entry")} data-kind={one.kind.toLowerCase()}>
              {children ? children(one) : content(one)}
            </li>
          ))}
        </ul>
      )}
      {error && (status === "error" || !isLoadingMore) && (
        <Failure text={labels.historyError} retry={labels.retry} onRetry={() => void history.reload()} />
      )}
      {hasMore && (
        <button
          type="button"
          className={classes("meterd-button", part("more"))}
          aria-disabled={isLoadingMore || undefined}
          aria-busy={isLoadingMore || undefined}
          onClick={() => void more()}
        >
          {isLoadingMore ? labels.loading : labels.historyMore}
        </button>
      )}
      <span role="status">
        <Unseen>{told}</Unseen>
      </span>
    </section>
  );

  async function more(): Promise<void> {
    if (isLoadingMore) return;
    focusIndex.current = transactions.length;
    const count = await history.loadMore();
    if (count === 0) focusIndex.current = -1;
    setTold(count > 0 ? labels.historyAdded(count) : "");
  }

  function content(one: Transaction): ReactNode {
    return (
      <>
        <span className={part("title")}>{titleOf(one, meterd, catalog)}</span>
        <span className={part("amount")} data-sign={one.amountMicros < 0n ? "minus" : "plus"}>
          {meterd.amount(one.amountMicros, { signed: true })}
        </span>
        <span className={part("time")}>
          {one.at && <time dateTime={one.at.toISOString()}>{formatTime(one.at, meterd.locale)}</time>}
        </span>
        <span className={part("after")}>{labels.after(meterd.amount(one.availableAfterMicros))}</span>
      </>
    );
  }
}

function titleOf(one: Transaction, { labels }: Meterd, catalog: Catalog | undefined): string {
  if (!one.item || one.item === "credits" || labels.kinds[one.kind] !== labels.kinds.CHARGE) return labels.kinds[one.kind] ?? labels.kinds.UNSPECIFIED;
  const feature = catalog?.features.find((found) => one.item === `feature:${found.featureId}`);
  return labels.item(one.item, feature?.name);
}
