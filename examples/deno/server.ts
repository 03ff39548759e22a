// A Deno server that meters its users' chats. POST / with {"user": …, "prompt": …} streams the provider's answer.
// examples/README.md tells how to run it. METERD_URL, METERD_KEY, PROVIDER_URL and PORT say where things are.
import { createMeter, DeniedError, meterStream } from "@meterd/client";

const { METERD_URL, METERD_KEY, PROVIDER_URL, PORT } = Deno.env.toObject();
const meter = createMeter({ baseUrl: METERD_URL, key: METERD_KEY });

Deno.serve({ port: Number(PORT ?? 8400), hostname: "127.0.0.1" }, async (request) => {
  const { user, prompt } = await request.json();
  try {
    const hold = await meter.hold({ account: user, model: "gpt-4o-mini", prompt, maxOutputTokens: 500 });
    const answer = await fetch(`${PROVIDER_URL}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: "gpt-4o-mini",
        messages: [{ role: "user", content: prompt }],
        max_tokens: hold.maxOutputTokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    return new Response(meterStream(hold, answer.body!), { headers: { "content-type": "text/event-stream" } });
  } catch (error) {
    return new Response((error as Error).message, { status: error instanceof DeniedError ? 402 : 503 });
  }
});
