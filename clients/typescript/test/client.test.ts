/** Node against a real meterd, which tests/typescript starts: HTTP_URL, GRPC_URL, METER_KEY, ACCOUNT with plenty and POOR-grpc and so on with next to nothing. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import * as core from "@meterd/client";
import * as edge from "@meterd/client/edge";
import * as node from "@meterd/client/node";

const { HTTP_URL = "", GRPC_URL = "", METER_KEY: key = "", ACCOUNT: account = "", POOR: poors = "" } = process.env;
const response = { object: "chat.completion", model: "gpt-4o-mini", usage: { prompt_tokens: 1_000, completion_tokens: 100, total_tokens: 1_100 } };
const model = { account, model: "gpt-4o-mini", inputTokens: 1_000, maxOutputTokens: 1_000 };
const makers: Record<string, (options?: core.MeterOptions, url?: string) => core.Meter> = {
  grpc: (options, url = GRPC_URL) => node.createMeter({ baseUrl: url, key, ...options }),
  connect: (options, url = HTTP_URL) => core.createMeter({ baseUrl: url, key, ...options }),
  edge: (options, url = HTTP_URL) => edge.createMeter({ baseUrl: url, key, ...options }) as unknown as core.Meter,
};

async function* chunks(count: number, last?: object): AsyncGenerator<object> {
  for (let at = 0; at < count; at++) {
    yield { object: "chat.completion.chunk", choices: [{ index: 0, delta: { content: "word" } }] };
    if (at % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  if (last) yield last;
}

// A gRPC connection that stays open would keep the process alive.
after(() => setTimeout(() => process.exit(), 100).unref());

for (const [name, make] of Object.entries(makers)) {
  const poor = `${poors}-${name}`;
  describe(name, () => {
    test("a body's response is what is charged", async () => {
      const held: core.Hold[] = [];
      const result = await core.withHold(make(), model, (hold) => (held.push(hold), response));
      assert.equal(result, response);
      const settlement = await held[0]!.done;
      assert.equal(settlement!.chargedMicros, 210_000n);
      assert.equal(settlement!.usageState, "REPORTED");
    });

    test("a body that throws before anything was used costs nothing", async () => {
      let held: core.Hold | undefined;
      const run = core.withHold(make(), model, (hold) => {
        held = hold;
        throw new Error("mine");
      });
      await assert.rejects(run, /mine/);
      assert.equal((await held!.done)!.state, "RELEASED");
    });

    test("a body that tells nothing is charged whole, and told so", async () => {
      await assert.rejects(core.withHold(make(), model, () => "text"), (error: core.MissingUsageError) => {
        assert.equal(error.name, "MissingUsageError");
        assert.equal(error.settlement!.chargedMicros, 750_000n);
        return true;
      });
    });

    test("a feature's hold is charged by its end alone", async () => {
      const hold = await make().hold({ account, feature: "cover_letter", quantity: 2 });
      assert.equal((await hold.commit())!.chargedMicros, 24_000_000n);
      assert.equal((await hold.commit())!.chargedMicros, 24_000_000n);
    });

    test("a response that tells no usage leaves the hold open for another try", async () => {
      const hold = await make().hold(model);
      await assert.rejects(hold.commit({ usage: { nonsense: 1 } }), /provider_response/);
      assert.equal(hold.ended, false);
      assert.equal((await hold.commit(response))!.chargedMicros, 210_000n);
    });

    test("a denial is thrown with what is affordable", async () => {
      await assert.rejects(make().hold({ ...model, account: poor }), (error: core.DeniedError) => {
        assert.equal(error.name, "DeniedError");
        assert.equal(error.denial.reasons[0]!.code, "INSUFFICIENT_CREDITS");
        assert.equal(error.denial.availableMicros, 200_000n);
        assert.equal(error.denial.affordableOutputTokens, 83);
        return true;
      });
    });

    test("a stream ends where nothing more is covered", async () => {
      const hold = await make().hold({ ...model, account: poor, minOutputTokens: 1 });
      assert.equal(hold.maxOutputTokens, 83);
      let seen = 0;
      for await (const _ of core.meterStream(hold, chunks(2_000))) seen++;
      assert.ok(hold.stopped);
      assert.ok(seen >= 83 && seen < 1_500, `${seen}`);
      const settlement = await hold.done;
      assert.equal(settlement!.usageState, "PARTIAL");
      // 83 words where meterd's answer comes before the 84th; what a slow answer lets through is charged as far as the account goes.
      const costMicros = 150_000n + 600n * BigInt(seen);
      assert.equal(settlement!.chargedMicros, costMicros < 200_000n ? costMicros : 200_000n);
      assert.equal(settlement!.uncollectedMicros, costMicros - settlement!.chargedMicros);
    });

    test("a stream's items are the source's own, and its end is charged as stated", async () => {
      const hold = await make().hold(model);
      const last = { object: "chat.completion.chunk", model: "gpt-4o-mini", choices: [], usage: response.usage };
      const source: object[] = [];
      for await (const item of chunks(5, last)) source.push(item);
      const seen = [];
      for await (const item of hold.stream((async function* () { yield* source; })())) seen.push(item);
      assert.ok(seen.every((item, at) => item === source[at]));
      assert.equal((await hold.done)!.chargedMicros, 210_000n);
    });

    test("server-sent events may be cut at any byte", async () => {
      const text = [1, 2, 3].map((at) => `data: {"choices":[{"delta":{"content":"größe ${at}"}}]}\r\n\r\n`).join("") +
        `data: {"choices":[],"model":"gpt-4o-mini","usage":${JSON.stringify(response.usage)}}\n\ndata: [DONE]`;
      const bytes = new TextEncoder().encode(text);
      for (const size of [1, 7, bytes.length]) {
        const hold = await make().hold(model);
        const source = new ReadableStream<Uint8Array>({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
          },
        });
        assert.equal(await new Response(core.meterStream(hold, source)).text(), text);
        assert.equal((await hold.done)!.chargedMicros, 210_000n);
      }
    });

    test("a signal that aborts in mid-stream settles what has come", async () => {
      const gone = new AbortController();
      const hold = await make().hold({ ...model, signal: gone.signal });
      const read = (async () => {
        let seen = 0;
        for await (const _ of core.meterStream(hold, chunks(1_000))) if (++seen === 100) gone.abort();
      })();
      await assert.rejects(read, { name: "AbortError" });
      const settlement = await hold.done;
      assert.equal(settlement!.usageState, "PARTIAL");
      assert.equal(settlement!.chargedMicros, 150_000n + 100n * 600n);
    });

    test("a signal that aborts while the hold is asked for leaves none", async () => {
      const gone = new AbortController();
      const kept: Promise<unknown>[] = [];
      const asked = make({ waitUntil: (promise) => void kept.push(promise) }).hold({ ...model, signal: gone.signal });
      gone.abort();
      await assert.rejects(asked, { name: "AbortError" });
      const settlement = (await kept[0]) as core.Settlement;
      assert.equal(settlement.state, "RELEASED");
    });

    test("the runtime is kept alive until the settlement is told", async () => {
      const kept: Promise<unknown>[] = [];
      const hold = await make({ waitUntil: (promise) => void kept.push(promise) }).hold(model);
      const stream = core.meterStream(hold, new ReadableStream({ pull: (controller) => controller.enqueue({ choices: [{ delta: { content: "a" } }] }) }));
      assert.equal(kept.length, 1);
      const reader = stream.getReader();
      await reader.read();
      await reader.cancel();
      await Promise.all(kept);
      assert.equal((await hold.done)!.usageState, "PARTIAL");
    });

    test("a hold outlives its ttl while its call runs", async () => {
      const hold = await make().hold({ ...model, ttlMs: 3_000 });
      await new Promise((resolve) => setTimeout(resolve, 5_400));
      assert.equal((await hold.commit(response))!.state, "COMMITTED");
    });

    test("without meterd a call is refused, or let pass, as the meter says", async () => {
      const nowhere = "http://127.0.0.1:9";
      await assert.rejects(make({ timeoutMs: 300 }, nowhere).hold(model), { name: "UndecidedError" });
      const lost: unknown[] = [];
      const open = make({ timeoutMs: 300, settleTimeoutMs: 300, onUndecided: "allow", onUnsettled: (error) => void lost.push(error) }, nowhere);
      await assert.rejects(core.withHold(open, model, () => response), { name: "UndecidedError" });
      assert.equal(lost.length, 1);
    });
  });
}

test("what was let pass is charged afterwards", async () => {
  let calls = 0;
  const flaky: typeof fetch = (input, init) => (calls++ === 0 ? Promise.reject(new TypeError("cut")) : fetch(input, init));
  const meter = edge.createMeter({ baseUrl: HTTP_URL, key, fetch: flaky, timeoutMs: 1, onUndecided: "allow" });
  const hold = await meter.hold(model);
  assert.equal(hold.grant, undefined);
  assert.equal((await hold.commit(response))!.chargedMicros, 210_000n);
});

test("Supabase's EdgeRuntime is used where there is one", async () => {
  const kept: Promise<unknown>[] = [];
  Object.assign(globalThis, { EdgeRuntime: { waitUntil: (promise: Promise<unknown>) => kept.push(promise) } });
  try {
    const hold = await core.createMeter({ baseUrl: HTTP_URL, key }).hold(model);
    await hold.release();
    assert.equal(kept.length, 1);
  } finally {
    Reflect.deleteProperty(globalThis, "EdgeRuntime");
  }
});
