import type { Hold } from "./hold.js";

// A report costs a call to meterd; between two of them at most this much can be lost to a runtime that dies.
const REPORT_INTERVAL_MS = 1_000;
const REPORT_TOKENS = 256;
// A line of server-sent events that is longer is no event of a provider.
const LINE_CHARS_MAX = 1 << 20;

/** Reads the `data:` of server-sent events, from bytes or text in pieces of any size, into a hold's tally. */
function eventReader(hold: Hold): (piece: unknown) => void {
  const decoder = new TextDecoder();
  let rest = "";
  return (piece) => {
    if (typeof piece !== "string" && !(piece instanceof Uint8Array)) return hold.tally.add(piece);
    const lines = (rest + (typeof piece === "string" ? piece : decoder.decode(piece, { stream: true }))).split(/\r?\n/);
    rest = lines.pop()!.slice(-LINE_CHARS_MAX);
    for (const line of lines) {
      try {
        // Without `data:` it may be JSON lines, as Ollama sends them.
        hold.tally.add(JSON.parse(line.replace(/^data: ?/, "")));
      } catch {
        // Not the provider's: passed through, not counted.
      }
    }
  };
}

/** Reports at intervals, one at a time; answers whether the output has reached what is covered. */
function reporter(hold: Hold): () => boolean {
  let covered = Infinity;
  let lastMs = 0;
  let lastTokens = 0;
  let asking = false;
  return () => {
    const usage = hold.usage;
    if (!usage || !hold.request.model) return false;
    const tokens = usage.outputTokens ?? 0;
    const nowMs = Date.now();
    if (!asking && (nowMs - lastMs >= REPORT_INTERVAL_MS || tokens - lastTokens >= REPORT_TOKENS)) {
      asking = true;
      lastMs = nowMs;
      lastTokens = tokens;
      const asked = hold.report().then(
        (reply) => {
          asking = false;
          if (reply) covered = reply.advice === "CONTINUE" ? Infinity : tokens + reply.affordableOutputTokens;
        },
        // It has ended another way: nothing more is covered.
        () => (covered = 0),
      );
      hold.keepAlive(asked);
    }
    return tokens >= covered;
  };
}

/**
 * The items of a provider's stream, unchanged: SDK events, plain objects, or the bytes or text of server-sent events. Progress is reported;
 * the stream ends early where meterd advises STOP; the hold is settled when the stream ends, fails, is left or its hold's signal aborts.
 */
export async function* metered<T>(hold: Hold, source: AsyncIterable<T>): AsyncGenerator<T, void, void> {
  const items = source[Symbol.asyncIterator]();
  const read = eventReader(hold);
  const isSpent = reporter(hold);
  let ended = false;
  const { signal } = hold;
  const abort = new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  abort.catch(() => {});
  try {
    for (;;) {
      signal?.throwIfAborted();
      const next = await Promise.race([items.next(), abort]);
      ended = !!next.done;
      // The last line may lack its end.
      read(ended ? "\n" : next.value);
      if (ended) break;
      yield next.value as T;
      // After the item that it was told of: what the provider has sent is charged, and may as well be seen.
      if ((hold.stopped = isSpent())) break;
    }
  } finally {
    const settled = hold.settle(ended);
    // What is left of the source is not wanted; a provider stops generating when its connection closes.
    if (!ended) void Promise.resolve(items.return?.()).catch(() => {});
    await settled.catch(() => {});
  }
}

/**
 * A provider's stream, metered: the same items come out, a ReadableStream of a ReadableStream. The hold is settled when it ends, fails, is
 * cancelled, or aborts, and the runtime is kept alive for it.
 */
export function meterStream<T>(hold: Hold, source: ReadableStream<T>): ReadableStream<T>;
export function meterStream<T>(hold: Hold, source: AsyncIterable<T>): AsyncGenerator<T, void, void>;
export function meterStream<T>(hold: Hold, source: ReadableStream<T> | AsyncIterable<T>): ReadableStream<T> | AsyncGenerator<T, void, void> {
  // Whoever reads it, the hold's end is the stream's from now on.
  hold.streaming = true;
  hold.keepAlive(hold.done);
  if (!("getReader" in source)) return metered(hold, source);
  const items = metered(hold, pieces(source));
  return new ReadableStream<T>(
    {
      async pull(controller) {
        const { done, value } = await items.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel(reason) {
        await items.return();
        // Before the first item there was nobody to do it.
        await Promise.allSettled([hold.settle(), source.cancel(reason)]);
      },
    },
    { highWaterMark: 0 },
  );
}

/** Not every runtime's ReadableStream is an AsyncIterable. */
async function* pieces<T>(source: ReadableStream<T>): AsyncGenerator<T, void, void> {
  const reader = source.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}
