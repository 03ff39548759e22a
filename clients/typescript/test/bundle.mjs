// Bundles what runs in other runtimes than Node, and the examples, into build/.
import { copyFileSync } from "node:fs";
import { resolve } from "node:path";
import { build } from "esbuild";

const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  logLevel: "warning",
  // Deno knows Node's modules by these names too.
  external: ["node:*", "http", "http2", "https", "stream", "util", "zlib", "url", "events", "buffer"],
  alias: { "@meterd/client": resolve("dist") },
};

await build({
  ...common,
  entryPoints: { "agent.workerd": "build/test/agent.workerd.js", "agent.deno": "build/test/agent.deno.js" },
  outdir: "build/bundles",
});
await build({
  ...common,
  entryPoints: {
    node: "../../examples/node/server.mjs",
    deno: "../../examples/deno/server.ts",
    supabase: "../../examples/supabase/index.ts",
    bundle: "../../examples/workers/worker.js",
  },
  outdir: "build/examples",
  outExtension: { ".js": ".mjs" },
});
copyFileSync("build/examples/bundle.mjs", "build/examples/bundle.js");
copyFileSync("../../examples/workers/workerd.capnp", "build/examples/workerd.capnp");
