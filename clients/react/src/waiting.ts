// After the first failure, and at most. Between them it doubles; each wait is a random part of it, so that clients do not return as one.
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30_000;
// Timers of browsers hold 31 bits.
const TIMER_MAX_MS = 2 ** 31 - 1;

export function backoffMs(failures: number): number {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(failures - 1, 10));
  return ceiling * (0.5 + Math.random() / 2);
}

/** Like setTimeout, for any time; never for Infinity. The answer stops it. */
export function after(ms: number, act: () => void): () => void {
  if (ms > TIMER_MAX_MS) return () => undefined;
  const timer = setTimeout(act, Math.max(0, ms));
  return () => clearTimeout(timer);
}

/** Waits; less long if the network or the reader comes back, if `nudge` is told, or if the signal ends it all. Never throws. */
export function wait(ms: number, signal: AbortSignal, nudge: EventTarget): Promise<void> {
  return new Promise((resolve) => {
    const ended = new AbortController();
    const end = (): void => {
      stop();
      ended.abort();
      resolve();
    };
    const stop = after(ms, end);
    const options = { signal: ended.signal };
    signal.addEventListener("abort", end, options);
    nudge.addEventListener("nudge", end, options);
    globalThis.addEventListener?.("online", end, options);
    if (typeof document !== "undefined") document.addEventListener("visibilitychange", () => document.hidden || end(), options);
    if (signal.aborted) end();
  });
}

export const isHidden = (): boolean => typeof document !== "undefined" && document.hidden;

/** Calls back when the page has been hidden for so long. The answer stops it. */
export function whenHidden(ms: number, act: () => void): () => void {
  if (typeof document === "undefined") return () => undefined;
  let stop = (): void => undefined;
  const look = (): void => {
    stop();
    if (document.hidden) stop = after(ms, act);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    stop();
    document.removeEventListener("visibilitychange", look);
  };
}
