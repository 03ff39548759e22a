/** The agent in Node: node agent.node.js PORT. */
import { createServer } from "node:http";
import { Readable } from "node:stream";
import type { ReadableStream as NodeStream } from "node:stream/web";
import { createMeter } from "@meterd/client/node";
import { type MakeMeter, handle } from "./agent.js";

export const overGrpc: MakeMeter = ({ wire, grpc, key }, options) =>
  wire === "grpc" ? createMeter({ baseUrl: grpc, key, ...options }) : undefined;

createServer(async (incoming, outgoing) => {
  const pieces: Buffer[] = [];
  for await (const piece of incoming) pieces.push(piece as Buffer);
  const gone = new AbortController();
  outgoing.on("close", () => outgoing.writableFinished || gone.abort());
  const method = incoming.method ?? "GET";
  const request = new Request(`http://127.0.0.1${incoming.url}`, {
    method,
    body: method === "POST" ? Buffer.concat(pieces) : undefined,
    signal: gone.signal,
  });
  const response = await handle(request, undefined, overGrpc).catch((error: unknown) => new Response(String(error), { status: 500 }));
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (!response.body) return outgoing.end();
  const body = Readable.fromWeb(response.body as NodeStream);
  outgoing.on("close", () => body.destroy());
  body.on("error", () => outgoing.destroy());
  return body.pipe(outgoing);
}).listen(Number(process.argv[2]), "127.0.0.1");
