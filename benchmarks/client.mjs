/** What the TypeScript client adds to a call: Reserve and Commit through it, next to fetch alone, in turns. Answers JSON by standard output. */
import { createMeter as overConnect, uuid7 } from "../clients/typescript/src/index.ts";
import { createMeter as overJson } from "../clients/typescript/src/edge.ts";

const { baseUrl, key, account, model, inputTokens, outputTokens, lifecycles, rounds } = JSON.parse(process.argv[2]);
const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
const usage = { inputTokens, outputTokens };
const charge = { model, inputTokens, maxOutputTokens: outputTokens };

async function call(method, request) {
  const answer = await fetch(`${baseUrl}/meterd.v1.Metering/${method}`, { method: "POST", headers, body: JSON.stringify(request) });
  if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function bare() {
  const { hold } = await call("Reserve", { holdId: uuid7(), accountId: account, model: charge });
  await call("Commit", { holdId: hold.holdId, usage: { usage } });
}

function through(meter) {
  const response = { model, usage: { prompt_tokens: inputTokens, completion_tokens: outputTokens } };
  return async () => {
    const hold = await meter.hold({ account, ...charge });
    await hold.commit(response);
  };
}

/** Processor time of this process for a call, in µs. */
async function timed(lifecycle) {
  const before = process.cpuUsage();
  for (let number = 0; number < lifecycles; number++) await lifecycle();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / lifecycles / 2;
}

const sides = { bare, connect: through(overConnect({ baseUrl, key })), json: through(overJson({ baseUrl, key })) };
const found = Object.fromEntries(Object.keys(sides).map((name) => [name, []]));
for (let round = 0; round <= rounds; round++) {
  for (const [name, lifecycle] of Object.entries(sides)) {
    const us = await timed(lifecycle);
    // The first connects and warms up.
    if (round) found[name].push(us);
  }
}
console.log(JSON.stringify(found));
