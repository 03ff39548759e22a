import { type ReactNode, useId } from "react";
import { Dialog } from "./dialog.js";
import { type Gate, type GateOptions, useCreditGate } from "./gate.js";
import { Unseen, classes } from "./parts.js";
import { type Meterd, useMeterd } from "./provider.js";

export type GatePart = "trigger" | "cost" | "dialog" | "title" | "text" | "summary" | "actions" | "confirm" | "cancel" | "buy";

export interface CreditGateProps extends GateOptions {
  /** The button's content; or a function that makes the whole trigger, which has to call `gate.open`. */
  children?: ReactNode | ((gate: Gate) => ReactNode);
  /** Where to buy what is missing; without it and `buy` there is no such button. */
  onBuy?: (gate: Gate) => void;
  /** In place of the button of `onBuy`, such as <Packages>. */
  buy?: ReactNode | ((gate: Gate) => ReactNode);
  /** In place of the dialog's whole content. */
  dialog?: (gate: Gate) => ReactNode;
  disabled?: boolean;
  className?: string;
  classNames?: Partial<Record<GatePart, string>>;
}

/** A button that says what it costs, asks before it spends, and leads to a purchase if the credits do not suffice. */
export function CreditGate(props: CreditGateProps): ReactNode {
  const { children, onBuy, buy, dialog, disabled = false, className, classNames = {}, ...options } = props;
  const meterd = useMeterd();
  const gate = useCreditGate(options);
  const id = useId();
  const isShort = gate.verdict === "short" || gate.verdict === "daily";
  const part = (name: GatePart): string => classes(`meterd-gate-${name}`, classNames[name]);
  return (
    <span className={classes("meterd-gate", className)} data-state={gate.status} data-verdict={gate.verdict}>
      {typeof children === "function" ? children(gate) : trigger(children)}
      <Dialog
        open={gate.isOpen}
        busy={gate.isWorking}
        onClose={gate.close}
        labelledBy={`${id}-title`}
        describedBy={`${id}-text`}
        className={part("dialog")}
      >
        {dialog ? dialog(gate) : content()}
      </Dialog>
    </span>
  );

  function trigger(text: ReactNode): ReactNode {
    const isBusy = gate.status === "loading" || (gate.isWorking && !gate.isOpen);
    return (
      <button
        type="button"
        className={part("trigger")}
        disabled={disabled || gate.status === "unavailable"}
        aria-busy={isBusy || undefined}
        aria-haspopup={options.confirm === false ? undefined : "dialog"}
        onClick={gate.open}
      >
        <span>{text ?? gate.name}</span>
        <span className={part("cost")}>{costText(gate, meterd)}</span>
      </button>
    );
  }

  function content(): ReactNode {
    return (
      <div className="meterd-gate-content" data-verdict={gate.verdict}>
        <h2 id={`${id}-title`} className={part("title")}>
          {titleText(gate, meterd)}
        </h2>
        <p id={`${id}-text`} className={part("text")} aria-live="polite">
          {bodyText(gate, meterd)}
        </p>
        {gate.verdict !== "daily" && !gate.isCovered && <Summary gate={gate} className={part("summary")} />}
        {gate.hasFailed && (
          <p role="alert" className="meterd-gate-failure">
            {meterd.labels.failed}
          </p>
        )}
        {isShort ? shortActions() : confirmActions()}
      </div>
    );
  }

  function confirmActions(): ReactNode {
    return (
      <div className={part("actions")}>
        <button type="button" className={classes("meterd-button", part("cancel"))} aria-disabled={gate.isWorking || undefined} onClick={leave}>
          {meterd.labels.cancel}
        </button>
        <button
          type="button"
          data-autofocus=""
          className={classes("meterd-button meterd-button-primary", part("confirm"))}
          // Not disabled: it would lose the focus.
          aria-disabled={gate.isWorking || undefined}
          aria-busy={gate.isWorking || undefined}
          onClick={() => void gate.confirm()}
        >
          {gate.isWorking ? meterd.labels.working : meterd.labels.confirm}
        </button>
      </div>
    );
  }

  function shortActions(): ReactNode {
    const slot = gate.verdict === "short" && (typeof buy === "function" ? buy(gate) : buy);
    const hasButton = gate.verdict === "short" && !slot && onBuy;
    return (
      <>
        {slot && <div className={part("buy")}>{slot}</div>}
        <div className={part("actions")}>
          <button type="button" className={classes("meterd-button", part("cancel"))} data-autofocus={hasButton ? undefined : ""} onClick={leave}>
            {meterd.labels.close}
          </button>
          {hasButton && (
            <button
              type="button"
              data-autofocus=""
              className={classes("meterd-button meterd-button-primary", part("buy"))}
              onClick={() => {
                gate.close();
                onBuy(gate);
              }}
            >
              {meterd.labels.buy}
            </button>
          )}
        </div>
      </>
    );
  }

  function leave(): void {
    if (!gate.isWorking) gate.close();
  }
}

function Summary({ gate, className }: { gate: Gate; className: string }): ReactNode {
  const { labels, amount } = useMeterd();
  const { availableMicros: available, costMicros: cost, verdict } = gate;
  if (available === undefined) return null;
  return (
    <dl className={className}>
      <div>
        <dt>{labels.balanceNow}</dt>
        <dd>{amount(available)}</dd>
      </div>
      <div>
        <dt>{labels.costs}</dt>
        <dd>{verdict === "ok" ? amount(-cost) : amount(cost, { round: "up" })}</dd>
      </div>
      {verdict === "ok" && (
        <div>
          <dt>{labels.balanceAfter}</dt>
          <dd>{amount(available - cost)}</dd>
        </div>
      )}
    </dl>
  );
}

function costText(gate: Gate, { labels, amount, credits }: Meterd): ReactNode {
  if (gate.status === "loading") return <Unseen>{labels.loading}</Unseen>;
  if (gate.status === "error") return labels.retry;
  if (gate.status === "unavailable") return labels.unavailable;
  if (gate.costMicros === 0n) return labels.free;
  if (gate.isCovered) return labels.included;
  return (
    <>
      <span aria-hidden="true" className="meterd-gate-coin" />
      <span aria-hidden="true">{amount(gate.costMicros, { round: "up" })}</span>
      <Unseen>{credits(gate.costMicros, { round: "up" })}</Unseen>
    </>
  );
}

function titleText(gate: Gate, { labels }: Meterd): string {
  if (gate.verdict === "short") return labels.shortTitle;
  return gate.verdict === "daily" ? labels.dailyTitle : labels.confirmTitle(gate.name);
}

function bodyText(gate: Gate, { labels, credits }: Meterd): string {
  if (gate.verdict === "daily") return labels.dailyText(gate.actionsPerDay);
  const costs = labels.confirmText(credits(gate.costMicros, { round: "up" }));
  if (gate.verdict === "short") return gate.missingMicros > 0n ? labels.shortText(credits(gate.missingMicros, { round: "up" })) : costs;
  if (gate.isCovered) return labels.confirmFree;
  return gate.verdict === "unknown" ? `${costs} ${labels.confirmUnknown}` : costs;
}
