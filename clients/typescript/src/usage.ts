import type { Usage } from "./types.js";

/** Any JSON object. */
export type Json = Record<string, any>;

// The usual mean of English text and of code; other scripts have more bytes a character and fewer characters a token.
const BYTES_PER_TOKEN = 4;
// What a provider's response tells about its usage; the rest of it never leaves the process.
const KEPT = /^(model(Version)?|usage(Metadata)?|service_?tier|meta|object)$/i;
const FIELDS = /^((in|out)put(Audio|Image|Video)?|reasoning|citation|cache(Read|Write|Write1h|AudioRead|ImageRead))Tokens$|^requests$|Searches$/;

export const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null;

/** Whether the object is a Usage of this client (or of the AI SDK), and not a provider's. */
export const isUsage = (value: unknown): value is Usage => isObject(value) && Object.keys(value).some((key) => FIELDS.test(key));

/** UTF-8. */
export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** About how many tokens a prompt has, where nobody has counted them. */
export const guessedTokens = (prompt = ""): number => Math.ceil(bytesOf(prompt).length / BYTES_PER_TOKEN);

const count = (value: unknown): number => (typeof value === "number" && value > 0 ? Math.floor(value) : 0);

/** The part of a response or a stream's event that carries its usage, with little else; undefined where it has none. */
export function carrier(event: unknown): Json | undefined {
  if (!isObject(event)) return undefined;
  const usage = event.usage ?? event.totalUsage;
  if (isObject(usage) || isObject(event.usageMetadata)) {
    const kept: Json = usage ? { usage } : {};
    for (const key in event) if (KEPT.test(key)) kept[key] ??= event[key];
    return kept;
  }
  return carrier(event.response) ?? carrier(event.message) ?? carrier(event.metadata);
}

/** What is known of a usage, from a provider's response, a stream's event or a plain object; undefined where it tells nothing. */
export function usageOf(event: unknown): Usage | undefined {
  if (isUsage(event)) return plain(event);
  const found = carrier(event);
  if (!found) return undefined;
  const meta = found.usageMetadata;
  if (!meta) return isUsage(found.usage) ? plain(found.usage) : ofSnakeCase(found.usage);
  const thoughts = count(meta.thoughtsTokenCount);
  return {
    inputTokens: count(meta.promptTokenCount) + count(meta.toolUsePromptTokenCount),
    cacheReadTokens: count(meta.cachedContentTokenCount),
    outputTokens: count(meta.candidatesTokenCount) + thoughts,
    reasoningTokens: thoughts,
  };
}

/** A Usage, with the AI SDK's word for cached input, and Bedrock's, who counts it apart. */
function plain(usage: Json): Usage {
  const found: Json = {};
  for (const key in usage) if (FIELDS.test(key)) found[key] = count(usage[key]);
  const { cachedInputTokens, cacheReadInputTokens: read, cacheWriteInputTokens: write } = usage;
  if (read || write) found.inputTokens += count(read) + count(write);
  if (write) found.cacheWriteTokens = count(write);
  if (read || cachedInputTokens) found.cacheReadTokens = count(read || cachedInputTokens);
  return found;
}

/** OpenAI (chat and responses) and Anthropic, who counts what it read from or wrote to its cache apart from the input. */
function ofSnakeCase(usage: Json): Usage {
  const read = count(usage.cache_read_input_tokens);
  const write = count(usage.cache_creation_input_tokens);
  return {
    inputTokens: count(usage.prompt_tokens ?? usage.input_tokens) + read + write,
    cacheReadTokens: read || count((usage.prompt_tokens_details ?? usage.input_tokens_details)?.cached_tokens),
    cacheWriteTokens: write,
    cacheWrite1hTokens: count(usage.cache_creation?.ephemeral_1h_input_tokens),
    outputTokens: count(usage.completion_tokens ?? usage.output_tokens),
    reasoningTokens: count((usage.completion_tokens_details ?? usage.output_tokens_details)?.reasoning_tokens),
  };
}

/** What a stream's events tell while they come: usage as far as it is stated, and the output counted where it is not. */
export class Tally {
  /** Events of a provider so far. */
  events = 0;
  /** What the provider states, in the shape of a whole response. */
  body: Json | undefined;
  /** The body holds the whole stream's usage. */
  final = false;
  /** The provider told of a fault. */
  failed = false;
  #bytes = 0;
  #texts = 0;
  #finished = false;

  /** Reads one event: an object of an SDK, or an event's JSON. */
  add(event: unknown): void {
    if (!isObject(event)) return;
    if (event.error) {
      this.failed = true;
      return;
    }
    this.events++;
    for (const text of textsOf(event)) {
      this.#texts++;
      this.#bytes += bytesOf(text).length;
    }
    this.#finished ||= [...(event.choices ?? []), ...(event.candidates ?? [])].some((one: Json) => one.finish_reason ?? one.finishReason);
    const told = carrier(event);
    if (!told) return;
    // Anthropic states the input in its first event and the output, cumulative, in a late one; what that has as null stands in the first.
    const stated = { ...this.body?.usage };
    for (const key in told.usage) stated[key] = told.usage[key] ?? stated[key];
    this.body = { ...this.body, ...told, ...(told.usage && { usage: stated }) };
    this.final = event.type ? event.type !== "message_start" : !(event.choices?.length || event.candidates) || this.#finished;
  }

  /** Cumulative. `inputTokens` is for providers that do not state theirs before the end. */
  usage(inputTokens: number): Usage {
    const stated = this.body && usageOf(this.body);
    const told = stated?.outputTokens ?? 0;
    const counted = Math.max(this.#texts, Math.ceil(this.#bytes / BYTES_PER_TOKEN));
    return { ...stated, inputTokens: stated?.inputTokens || inputTokens, outputTokens: this.final ? told : Math.max(told, counted) };
  }
}

/** The pieces of output in an event: text, reasoning, arguments of tools. */
function textsOf(event: Json): string[] {
  const found: unknown[] = [];
  for (const { delta, text } of event.choices ?? []) {
    found.push(text, delta?.content, delta?.reasoning_content, delta?.reasoning, delta?.refusal);
    for (const { function: called } of delta?.tool_calls ?? []) found.push(called?.name, called?.arguments);
  }
  for (const { content } of event.candidates ?? []) for (const part of content?.parts ?? []) found.push(part.text);
  const delta = event.contentBlockDelta?.delta ?? event.delta;
  if (isObject(delta)) found.push(delta.text, delta.partial_json, delta.thinking);
  else if (/delta$/.test(event.type)) found.push(delta ?? event.text ?? event.textDelta);
  else if (!event.type && !event.choices) found.push(event.text);
  return found.filter((text): text is string => typeof text === "string" && text !== "");
}
