/** The agent in Deno: deno run agent.deno.js PORT. */
import { createMeter } from "@meterd/client/node";
import { handle } from "./agent.js";

declare const Deno: {
  args: string[];
  serve(options: { port: number; hostname: string; onListen(): void }, handler: (request: Request) => Promise<Response>): void;
};

Deno.serve({ port: Number(Deno.args[0]), hostname: "127.0.0.1", onListen() {} }, (request) =>
  handle(request, undefined, ({ wire, grpc, key }, options) => (wire === "grpc" ? createMeter({ baseUrl: grpc, key, ...options }) : undefined)),
);
