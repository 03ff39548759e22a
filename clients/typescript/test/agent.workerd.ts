/** The agent as a Worker. */
import { handle } from "./agent.js";

interface Context {
  waitUntil(promise: Promise<unknown>): void;
}

export default {
  fetch: (request: Request, _: unknown, context: Context): Promise<Response> => handle(request, (promise) => context.waitUntil(promise)),
};
