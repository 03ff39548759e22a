import { MeterError, UndecidedError, failure } from "./errors.js";
import type { Calls, Method, Wire } from "./types.js";

// Doubled from try to try; each wait is between half of it and all of it, so that callers do not return in step.
const DELAY_FIRST_MS = 50;
const DELAY_MAX_MS = 1_000;
// One attempt: longer than a slow answer, short enough that a call outlives a connection that went silent.
const ATTEMPT_MAX_MS = 5_000;

/**
 * The answer of a call, tried again with the same ids while it is undecided and `timeoutMs` is not over. Fails with the last attempt's error.
 */
export async function retried<M extends Method>(
  wire: Wire,
  method: M,
  request: Calls[M][0],
  timeoutMs: number,
): Promise<Calls[M][1]> {
  const deadlineMs = Date.now() + timeoutMs;
  for (let attempt = 0; ; attempt++) {
    const leftMs = deadlineMs - Date.now();
    try {
      return await wire(method, request, Math.max(1, Math.min(leftMs, ATTEMPT_MAX_MS)));
    } catch (caught) {
        const error = caught instanceof MeterError ? caught : failure("UNKNOWN", String(caught), caught);
      const mostMs = Math.min(DELAY_MAX_MS, DELAY_FIRST_MS * 2 ** attempt);
      // Overload without a wait is a message that is too large, which no repeat makes smaller.
      const hopeless = !(error instanceof UndecidedError) || (error.code === "RESOURCE_EXHAUSTED" && error.retryAfterMs === undefined);
      const waitMs = (error.retryAfterMs ?? 0) + mostMs * (0.5 + Math.random() / 2);
      if (hopeless || Date.now() + waitMs >= deadlineMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }
}
