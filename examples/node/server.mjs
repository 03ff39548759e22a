// A Node server that meters its users' chats over gRPC. POST / with {"user": …, "prompt": …} streams the provider's answer.
// examples/README.md tells how to run it. METERD_URL, METERD_KEY, PROVIDER_URL and PORT say where things are.
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { DeniedError, createMeter, meterStream } from "@meterd/client/node";

const { METERD_URL, METERD_KEY, PROVIDER_URL, PORT } = process.env;
const meter = createMeter({ baseUrl: METERD_URL, key: METERD_KEY });

async function chat({ user, prompt }) {
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
  return meterStream(hold, answer.body);
}

createServer(async (request, response) => {
  try {
    const body = Readable.fromWeb(await chat(await new Response(Readable.toWeb(request)).json()));
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.on("close", () => body.destroy());
    body.pipe(response);
  } catch (error) {
    response.writeHead(error instanceof DeniedError ? 402 : 503, { "content-type": "text/plain" });
    response.end(error.message);
  }
}).listen(Number(PORT ?? 8400), "127.0.0.1");
