/** What needs no server: sizes, usage, streams' events, ids, and the edge entry's table against the protos. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { uuid7 } from "@meterd/client";
import { file_meterd_v1_metering } from "@meterd/client/v1/metering";
import { file_meterd_v1_types } from "@meterd/client/v1/types";
import { buildSync } from "esbuild";

// By their files: the package does not export them.
const { Tally, carrier, usageOf } = (await import(new URL("../../dist/usage.js", import.meta.url).href)) as typeof import("../src/usage.js");
const { MESSAGES } = (await import(new URL("../../dist/json.js", import.meta.url).href)) as typeof import("../src/json.js");

/** An entry's whole bundle, minified. */
function bundle(entry: string, external: string[] = []): string {
  const { outputFiles } = buildSync({ entryPoints: [`dist/${entry}.js`], bundle: true, minify: true, format: "esm", target: "es2022", external, write: false });
  return outputFiles[0]!.text;
}

const size = (text: string): number => gzipSync(text, { level: 9 }).length;

test("the core's bundle is at most 45 kB and imports nothing of Node's", () => {
  const text = bundle("index");
  assert.ok(size(text) <= 45_000, `${size(text)} bytes`);
  assert.doesNotMatch(text, /\bimport\b|"node:|\brequire\(/);
});

test("the edge entry's bundle is at most 6 kB and imports nothing at all", () => {
  const text = bundle("edge", ["@*"]);
  assert.ok(size(text) <= 6 * 1_024, `${size(text)} bytes`);
  assert.doesNotMatch(text, /\bimport\b|\brequire\(|\bBuffer\b|\bprocess\./);
});

test("the edge entry's table has every field of every message", () => {
  const messages = [...file_meterd_v1_metering.messages, ...file_meterd_v1_types.messages].flatMap((one) => [one, ...one.nestedMessages]);
  for (const [name, fields] of Object.entries(MESSAGES)) {
    const message = messages.find((one) => one.name === name);
    assert.ok(message, name);
    const told = fields.split(" ").map((field) => field.split(/[:*]/)[0]!);
    assert.deepEqual([...told].sort(), message.fields.map((field) => field.jsonName).sort(), name);
    for (const field of message.fields) {
      const text = fields.split(" ").find((one) => one.split(/[:*]/)[0] === field.jsonName)!;
      const separator = field.fieldKind === "list" ? "*" : field.fieldKind === "message" && !/At$/.test(field.jsonName) ? ":" : "";
      const inner = field.fieldKind === "list" || field.fieldKind === "message" ? (field.message?.name ?? "") : "";
      assert.equal(text, `${field.jsonName}${separator}${separator && inner}`, name);
    }
  }
});

test("ids are UUIDv7 of their time, and differ", () => {
  const ids = Array.from({ length: 1_000 }, () => uuid7(1_700_000_000_123));
  for (const id of ids) assert.match(id, /^018bcfe5-687b-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(new Set(ids).size, ids.length);
});

test("usage is read from the shapes of all providers", () => {
  const chat = { usage: { prompt_tokens: 10, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 4 }, completion_tokens_details: { reasoning_tokens: 2 } } };
  assert.deepEqual(usageOf(chat), { inputTokens: 10, cacheReadTokens: 4, cacheWriteTokens: 0, cacheWrite1hTokens: 0, outputTokens: 5, reasoningTokens: 2 });
  const claude = { type: "message", usage: { input_tokens: 10, cache_read_input_tokens: 30, cache_creation_input_tokens: 20, cache_creation: { ephemeral_1h_input_tokens: 5 }, output_tokens: 7 } };
  assert.deepEqual(usageOf(claude), { inputTokens: 60, cacheReadTokens: 30, cacheWriteTokens: 20, cacheWrite1hTokens: 5, outputTokens: 7, reasoningTokens: 0 });
  const gemini = { usageMetadata: { promptTokenCount: 9, cachedContentTokenCount: 3, candidatesTokenCount: 4, thoughtsTokenCount: 6 } };
  assert.deepEqual(usageOf(gemini), { inputTokens: 9, cacheReadTokens: 3, outputTokens: 10, reasoningTokens: 6 });
  const bedrock = { usage: { inputTokens: 8, outputTokens: 2, totalTokens: 10, cacheReadInputTokens: 5 } };
  assert.deepEqual(usageOf(bedrock), { inputTokens: 13, outputTokens: 2, cacheReadTokens: 5 });
  const sdk = { totalUsage: { inputTokens: 8, outputTokens: 2, cachedInputTokens: 1 } };
  assert.deepEqual(usageOf(sdk), { inputTokens: 8, outputTokens: 2, cacheReadTokens: 1 });
  assert.equal(usageOf({ object: "chat.completion" }), undefined);
  assert.equal(usageOf(null), undefined);
});

test("nothing of a response leaves the process but usage, model and tier", () => {
  const response = { id: "secret", model: "m", service_tier: "flex", choices: [{ message: { content: "secret" } }], usage: { prompt_tokens: 1 } };
  assert.deepEqual(carrier(response), { usage: { prompt_tokens: 1 }, model: "m", service_tier: "flex" });
  assert.deepEqual(carrier({ response: { output: "secret", ...response } }), { usage: { prompt_tokens: 1 }, model: "m", service_tier: "flex" });
});

test("a stream that states no usage is counted by its pieces or its bytes, whichever is more", () => {
  const tally = new Tally();
  for (const content of ["a", "b", "twelve bytes"]) tally.add({ choices: [{ index: 0, delta: { content } }] });
  assert.deepEqual(tally.usage(7), { inputTokens: 7, outputTokens: 4 });
  assert.equal(tally.final, false);
});

test("Anthropic's input comes first and its output last", () => {
  const tally = new Tally();
  tally.add({ type: "message_start", message: { type: "message", model: "c", usage: { input_tokens: 10, cache_read_input_tokens: 5, output_tokens: 1 } } });
  tally.add({ type: "content_block_delta", delta: { type: "text_delta", text: "word" } });
  assert.equal(tally.usage(99).inputTokens, 15);
  assert.equal(tally.final, false);
  tally.add({ type: "message_delta", delta: {}, usage: { output_tokens: 42, input_tokens: null } });
  assert.equal(tally.final, true);
  assert.deepEqual(tally.body, { model: "c", usage: { input_tokens: 10, cache_read_input_tokens: 5, output_tokens: 42 } });
});

test("Gemini's usage is final with its finish reason, and OpenAI's with its last chunk", () => {
  const gemini = new Tally();
  gemini.add({ candidates: [{ content: { parts: [{ text: "a" }] } }], usageMetadata: { promptTokenCount: 3, candidatesTokenCount: 1 } });
  assert.equal(gemini.final, false);
  gemini.add({ candidates: [{ finishReason: "STOP" }], usageMetadata: { promptTokenCount: 3, candidatesTokenCount: 2 } });
  assert.equal(gemini.final, true);
  assert.equal(gemini.usage(0).outputTokens, 2);
  const openai = new Tally();
  openai.add({ choices: [{ delta: { content: "a" } }], usage: { prompt_tokens: 3, completion_tokens: 1 } });
  assert.equal(openai.final, false);
  openai.add({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2 } });
  assert.equal(openai.final, true);
});
