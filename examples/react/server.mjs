// The example's own backend: it bundles the page, and does for its one reader what needs a key. The key never leaves it.
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { METERD_URL = "http://127.0.0.1:8262", METERD_KEY, METERD_ACCOUNT = "react-example", TOKEN_TTL_MS = "900000" } = process.env;
const PORT = Number(process.env.PORT ?? 8300);
// "react-18" builds it with that version.
const REACT = process.env.REACT ?? "react";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const kit = here("../../clients/react/");
// esbuild and React are those of the kit: two Reacts in one page do not work.
const esbuild = createRequire(`${kit}package.json`)("esbuild");

if (!METERD_KEY) {
  console.error("METERD_KEY must be an admin key: paste the lines that `make run` prints, then export METERD_KEY=$METERD_ADMIN_KEY");
  process.exit(1);
}

/** One call of meterd: plain HTTP and JSON. */
async function call(method, request) {
  const headers = { authorization: `Bearer ${METERD_KEY}`, "content-type": "application/json" };
  const response = await fetch(`${METERD_URL}/meterd.v1.${method}`, { method: "POST", headers, body: JSON.stringify(request) });
  const reply = await response.json();
  if (!response.ok) throw new Error(`${method}: ${reply.code}: ${reply.message}`);
  return reply;
}

/** Each call in its own right, so that a repeat of a request that was cut off charges once: a real page would make it and send it along. */
function uuid7() {
  const time = Date.now().toString(16).padStart(12, "0");
  const random = randomBytes(10);
  random[0] = (random[0] & 0x0f) | 0x70;
  random[2] = (random[2] & 0x3f) | 0x80;
  const hex = time + random.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

const api = {
  /** Here your server looks at its session: who is it, and which account is theirs? */
  async "/api/token"() {
    return call("Accounts/CreateToken", { accountId: METERD_ACCOUNT, ttlMs: TOKEN_TTL_MS });
  },

  async "/api/charge"({ feature, amountMicros }) {
    const charge = feature ? { feature: { feature } } : { credits: { amountMicros } };
    const reply = await call("Metering/Charge", { idempotencyKey: uuid7(), accountId: METERD_ACCOUNT, ...charge });
    return reply.denial ? { status: 402, denial: reply.denial } : reply;
  },

  /** In place of a payment: yours is granted by the provider's webhook, with the order as its key. */
  async "/api/buy"({ packageId }) {
    const { packages } = await call("Catalog/GetCatalog", {});
    const pack = packages.find((one) => one.packageId === packageId);
    const grant = (category, amountMicros) =>
      call("Accounts/Grant", { idempotencyKey: uuid7(), accountId: METERD_ACCOUNT, amountMicros, category: `GRANT_CATEGORY_${category}` });
    await grant("PAID", pack.amountMicros);
    if (pack.bonusMicros) await grant("PROMOTIONAL", pack.bonusMicros);
    return {};
  },

  async "/api/config"() {
    return { baseUrl: METERD_URL, account: METERD_ACCOUNT };
  },
};

async function bundled() {
  const { outputFiles } = await esbuild.build({
    entryPoints: [here("app.tsx"), here("app.css")],
    outdir: "/",
    bundle: true,
    write: false,
    minify: true,
    format: "esm",
    target: "es2022",
    jsx: "automatic",
    nodePaths: [`${kit}node_modules`],
    alias: {
      "@meterd/react": `${kit}src/index.ts`,
      "@meterd/react/theme.css": `${kit}src/theme.css`,
      react: `${kit}node_modules/${REACT}`,
      "react-dom": `${kit}node_modules/${REACT.replace("react", "react-dom")}`,
    },
    define: { "process.env.NODE_ENV": '"production"' },
  });
  return Object.fromEntries(outputFiles.map((file) => [file.path, file.text]));
}

const types = { html: "text/html", js: "text/javascript", css: "text/css", json: "application/json" };
const files = { ...(await bundled()), "/": await readFile(here("index.html"), "utf8") };

function answer(response, status, type, body) {
  response.writeHead(status, { "content-type": `${types[type]}; charset=utf-8`, "cache-control": "no-store" });
  response.end(body);
}

const server = createServer(async (request, response) => {
  try {
    const handler = api[request.url];
    if (handler) {
      let body = "";
      for await (const chunk of request) body += chunk;
      const { status = 200, ...reply } = await handler(JSON.parse(body || "{}"));
      answer(response, status, "json", JSON.stringify(reply));
    } else if (files[request.url]) {
      answer(response, 200, request.url.split(".")[1] ?? "html", files[request.url]);
    } else {
      answer(response, 404, "html", "Not found");
    }
  } catch (error) {
    console.error(String(error));
    answer(response, 500, "json", JSON.stringify({ message: "see the server's log" }));
  }
});

await call("Accounts/CreateAccount", { accountId: METERD_ACCOUNT });
server.listen(PORT, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port} shows account ${METERD_ACCOUNT}`));
