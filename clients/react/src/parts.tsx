import { type CSSProperties, type ReactNode, useEffect, useState } from "react";

/** For readers of screens only; in line, so that it holds without a theme too. */
const UNSEEN: CSSProperties = {
  position: "absolute",
  width: 1,
  height: 1,
  margin: -1,
  padding: 0,
  overflow: "hidden",
  clipPath: "inset(50%)",
  whiteSpace: "nowrap",
  border: 0,
};

// Screen readers read each change of a live region to its end: a balance that runs down is told when it rests.
const REST_MS = 1_000;

export const classes = (...names: (string | undefined | false)[]): string => names.filter(Boolean).join(" ");

export function Unseen({ children }: { children: ReactNode }): ReactNode {
  return <span style={UNSEEN}>{children}</span>;
}

/** Tells a text to screen readers when it has not changed for a second. */
export function Announced({ children: text }: { children: string }): ReactNode {
  const [told, setTold] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setTold(text), REST_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <span role="status" aria-live="polite" aria-atomic="true" style={UNSEEN}>
      {told}
    </span>
  );
}

/** A failure, and the way on. */
export function Failure({ text, retry, onRetry, className }: { text: string; retry: string; onRetry(): void; className?: string | undefined }): ReactNode {
  return (
    <div role="alert" className={classes("meterd-failure", className)}>
      <span>{text}</span>
      <button type="button" className="meterd-button" onClick={onRetry}>
        {retry}
      </button>
    </div>
  );
}

/** Places of what is being loaded. */
export function Skeleton({ count, label, className }: { count: number; label: string; className: string }): ReactNode {
  return (
    <div className={className} aria-busy="true">
      <Unseen>{label}</Unseen>
      {Array.from({ length: count }, (_, index) => (
        <div key={index} className="meterd-skeleton" aria-hidden="true" />
      ))}
    </div>
  );
}
