// Playwright for tests/react/browser.py: runs what comes in as a line of JSON, and answers with one.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const kit = createRequire(`${process.env.KIT}/package.json`);
const { chromium } = kit("playwright-core");
const axe = kit.resolve("axe-core/axe.min.js");
const AsyncFunction = (async () => {}).constructor;
// An expectation that takes longer has failed.
const PATIENCE_MS = 15_000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  // Root, which tests in containers are, may not have Chromium's sandbox. Only pages of this repository are opened.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
});
let context;
let page;
let problems = [];

/** A fresh browser for one test. */
async function open({ url, width = 1024, height = 900, scheme = "light", code }) {
  await context?.close();
  context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce" });
  context.setDefaultTimeout(PATIENCE_MS);
  page = await context.newPage();
  problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    // Refused and cut connections are what many tests are about.
    if (["error", "warning"].includes(message.type()) && !message.text().startsWith("Failed to load resource")) problems.push(message.text());
  });
  if (code) await run({ code });
  await page.goto(url);
}

/** Polls until the expression, with `page` at hand, is what is expected. */
async function expect({ code, value }) {
  const wanted = JSON.stringify(value);
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    let found;
    try {
      found = (await run({ code: `return ${code}` })) ?? null;
    } catch (error) {
      found = String(error);
    }
    if (JSON.stringify(found) === wanted) return;
    if (Date.now() > until) throw new Error(`${code}\n  is       ${JSON.stringify(found)}\n  expected ${wanted}\n${await page.locator("body").ariaSnapshot()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const run = ({ code, ...values }) => new AsyncFunction("page", "context", "values", code)(page, context, values);

/** What axe finds wrong with the page as it is. */
async function audit() {
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary}`));
}

const verbs = { open, expect, run, audit, problems: () => problems };

for await (const line of createInterface({ input: process.stdin })) {
  const { verb, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await verbs[verb](rest)) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
