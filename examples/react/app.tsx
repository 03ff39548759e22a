import { BalanceBadge, CreditGate, History, MeterdProvider, type Package, Packages, useBalance, useCatalog } from "@meterd/react";
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

interface Config {
  baseUrl: string;
  account: string;
}

/** A call of this page's own server. Its status goes with the error: 402 tells the gate that meterd denied it. */
async function post<T>(path: string, body: object = {}): Promise<T> {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw Object.assign(new Error(`${path}: HTTP ${response.status}`), { status: response.status });
  return (await response.json()) as T;
}

const getToken = (): Promise<{ token: string; expiresAt: string }> => post("/api/token");
const spend = (feature: string): Promise<void> => post("/api/charge", { feature });
const buy = (pack: Package): Promise<void> => post("/api/buy", { packageId: pack.packageId });

function Features() {
  const { catalog } = useCatalog();
  const [done, setDone] = useState("");
  return (
    <>
      <div className="actions">
        {catalog?.features.map((one) => (
          <CreditGate
            key={one.featureId}
            feature={one.featureId}
            onConfirm={async () => {
              await spend(one.featureId);
              setDone(one.name);
            }}
            onBuy={() => document.getElementById("packages")?.scrollIntoView({ behavior: "smooth" })}
          />
        ))}
        <CreditGate
          name="Ask the model"
          costMicros={150_000n}
          confirm={false}
          onConfirm={async () => {
            await post("/api/charge", { amountMicros: "150000" });
            setDone("Ask the model");
          }}
        />
      </div>
      <p role="status" className="done">
        {done && `Done: ${done}.`}
      </p>
    </>
  );
}

/** Your own look, on the same live balance. */
function Sentence() {
  const { status, availableMicros } = useBalance();
  if (availableMicros === undefined) return <p>{status === "error" ? "Your balance cannot be read right now." : "One moment…"}</p>;
  return <p>Each action has a price. You can spend {Number(availableMicros / 1_000_000n)} credits.</p>;
}

function ThemeChoice() {
  const [theme, setTheme] = useState("system");
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.meterdTheme;
    else document.documentElement.dataset.meterdTheme = theme;
  }, [theme]);
  return (
    <label className="theme">
      Theme
      <select value={theme} onChange={(event) => setTheme(event.target.value)}>
        <option value="system">System</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}

function Page({ config }: { config: Config }) {
  return (
    <MeterdProvider baseUrl={config.baseUrl} account={config.account} getToken={getToken}>
      <header>
        <h1>meterd for React</h1>
        <BalanceBadge showHeld />
        <ThemeChoice />
      </header>
      <main>
        <section>
          <h2>Spend</h2>
          <Sentence />
          <Features />
        </section>
        <section id="packages">
          <h2>Buy</h2>
          <p>Straight from the catalog. This example grants them without a payment.</p>
          <Packages onBuy={buy} />
        </section>
        <section>
          <h2>History</h2>
          <p>Every change of the balance, as it happens.</p>
          <History pageSize={5} />
        </section>
      </main>
    </MeterdProvider>
  );
}

const config = (await (await fetch("/api/config")).json()) as Config;
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page config={config} />
  </StrictMode>,
);
