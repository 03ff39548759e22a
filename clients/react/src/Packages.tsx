import { type ReactNode, useState } from "react";
import { formatPrice } from "./format.js";
import { useCatalog } from "./hooks.js";
import { packageTitle } from "./labels.js";
import { Failure, Skeleton, Unseen, classes } from "./parts.js";
import { useMeterd } from "./provider.js";
import type { Package } from "./types.js";

export type PackagePart = "list" | "card" | "name" | "amount" | "bonus" | "price" | "discount" | "flag" | "button";

export interface PackagesProps {
  /** Begins the purchase, such as by a checkout page of your backend; while it runs the button is busy. */
  onBuy(pack: Package): void | Promise<void>;
  filter?: (pack: Package) => boolean;
  /** A card's content; `buy` begins the purchase. */
  children?: (card: { pack: Package; price: string; isBusy: boolean; buy(): void }) => ReactNode;
  /** What is shown if there are none. */
  empty?: ReactNode;
  className?: string;
  classNames?: Partial<Record<PackagePart, string>>;
}

/** What the catalog sells once, in its order. */
export function Packages({ onBuy, filter, children, empty, className, classNames = {} }: PackagesProps): ReactNode {
  const { labels, locale, amount, credits } = useMeterd();
  const { status, catalog, retry } = useCatalog();
  const [busyId, setBusyId] = useState("");
  const [hasFailed, setFailed] = useState(false);
  const packs = catalog?.packages.filter((one) => one.active && (!filter || filter(one))) ?? [];
  const part = (name: PackagePart): string => classes(`meterd-packages-${name}`, classNames[name]);
  return (
    <section className={classes("meterd-packages", className)} aria-label={labels.packages} data-state={status}>
      {status === "loading" && <Skeleton count={3} label={labels.loading} className="meterd-packages-list" />}
      {status === "error" && <Failure text={labels.packagesError} retry={labels.retry} onRetry={retry} />}
      {status === "ready" && packs.length === 0 && <p className="meterd-empty">{empty ?? labels.packagesEmpty}</p>}
      {packs.length > 0 && (
        <ul role="list" className={part("list")}>
          {packs.map(card)}
        </ul>
      )}
      {hasFailed && (
        <p role="alert" className="meterd-packages-failure">
          {labels.failed}
        </p>
      )}
    </section>
  );

  function card(pack: Package): ReactNode {
    const price = formatPrice(pack.price, pack.currency, locale);
    const isBusy = busyId === pack.packageId;
    const buy = (): void => void bought(pack);
    return (
      <li key={pack.packageId} className={part("card")} data-package={pack.packageId} data-flags={pack.flags.join(" ") || undefined}>
        {children ? children({ pack, price, isBusy, buy }) : content(pack, price, isBusy, buy)}
      </li>
    );
  }

  function content(pack: Package, price: string, isBusy: boolean, buy: () => void): ReactNode {
    return (
      <>
        <div className="meterd-packages-head">
          <span className={part("name")}>{packageTitle(pack)}</span>
          {pack.flags.map((flag) => (
            <span key={flag} className={part("flag")}>
              {labels.flag(flag)}
            </span>
          ))}
        </div>
        <div className={part("amount")}>
          <span aria-hidden="true">
            <strong>{amount(pack.amountMicros)}</strong> {labels.credits("", pack.amountMicros === 1_000_000n).trim()}
          </span>
          <Unseen>{credits(pack.amountMicros)}</Unseen>
        </div>
        <div className="meterd-packages-extras">
          {pack.bonusMicros > 0n && <span className={part("bonus")}>{labels.bonus(amount(pack.bonusMicros))}</span>}
          {pack.discountPercent && <span className={part("discount")}>{labels.discount(pack.discountPercent)}</span>}
        </div>
        <div className="meterd-packages-foot">
          <span className={part("price")}>{price}</span>
          <button
            type="button"
            className={classes("meterd-button", pack.flags.length > 0 && "meterd-button-primary", part("button"))}
            aria-disabled={busyId !== "" || undefined}
            aria-busy={isBusy || undefined}
            onClick={buy}
          >
            <span aria-hidden="true">{isBusy ? labels.working : labels.buyPackage("").trim()}</span>
            <Unseen>{isBusy ? labels.working : labels.buyPackage(`${packageTitle(pack)}, ${price}`)}</Unseen>
          </button>
        </div>
      </>
    );
  }

  async function bought(pack: Package): Promise<void> {
    if (busyId) return;
    setBusyId(pack.packageId);
    setFailed(false);
    try {
      await onBuy(pack);
    } catch {
      setFailed(true);
    } finally {
      setBusyId("");
    }
  }
}
