// A Supabase Edge Function that meters its users' chats; EdgeRuntime keeps it alive until the settlement is told. POST / with
// {"user": …, "prompt": …} streams the provider's answer. Secrets: METERD_URL, METERD_KEY, PROVIDER_URL.
// examples/README.md tells how to run it in Deno.
import { createMeter, withHold } from "@meterd/client/edge";

const { METERD_URL, METERD_KEY, PROVIDER_URL } = Deno.env.toObject();
const meter = createMeter({ baseUrl: METERD_URL, key: METERD_KEY });

Deno.serve(async (request: Request) => {
  const { user, prompt } = await request.json();
  const asked = { account: user, model: "gpt-4o-mini", prompt, maxOutputTokens: 500, signal: request.signal };
  try {
    return await withHold(meter, asked, async (hold) => {
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
        signal: request.signal,
      });
      return new Response(hold.stream(answer.body!), { headers: { "content-type": "text/event-stream" } });
    });
  } catch (error) {
    const { name, message } = error as Error;
    return new Response(message, { status: name === "DeniedError" ? 402 : 503 });
  }
});
