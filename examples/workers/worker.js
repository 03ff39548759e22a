// A Cloudflare Worker that meters its users' chats with the smallest client: fetch and JSON alone. POST / with {"user": …, "prompt": …}
// streams the provider's answer. Bindings: METERD_URL, METERD_KEY (a secret), PROVIDER_URL.
// examples/README.md tells how to run it in workerd.
import { DeniedError, createMeter, meterStream } from "@meterd/client/edge";

export default {
  async fetch(request, env, ctx) {
    const { user, prompt } = await request.json();
    const meter = createMeter({ baseUrl: env.METERD_URL, key: env.METERD_KEY, waitUntil: (promise) => ctx.waitUntil(promise) });
    try {
      const hold = await meter.hold({ account: user, model: "claude-sonnet-4-5", prompt, maxOutputTokens: 500 });
      const answer = await fetch(`${env.PROVIDER_URL}/v1/messages`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          model: "claude-sonnet-4-5",
          messages: [{ role: "user", content: prompt }],
          max_tokens: hold.maxOutputTokens,
          stream: true,
        }),
      });
      return new Response(meterStream(hold, answer.body), { headers: { "content-type": "text/event-stream" } });
    } catch (error) {
      return new Response(error.message, { status: error instanceof DeniedError ? 402 : 503 });
    }
  },
};
