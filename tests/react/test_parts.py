"""The kit's parts without a look, in Node: amounts, the stream's envelopes, and rendering on a server."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from meterd_client.v1 import tokens_pb2
from tests.react import browser as browsers
from tests.react import conftest

# Bundles the kit for Node and calls a function body with it.
_RUN = """
const { createRequire } = require('node:module');
const kit = createRequire(process.env.KIT + '/package.json');
const contents = `export * from './src/index.ts'; export { stream, unary } from './src/wire.ts'; export { Tokens } from './src/tokens.ts';
  export { chargeMicros } from './src/gate.ts';  export { createElement } from 'react'; export { renderToString } from 'react-dom/server';`;
const built = kit('esbuild').buildSync({
  stdin: { contents, resolveDir: process.env.KIT }, bundle: true, write: false, platform: 'node', format: 'cjs', jsx: 'automatic',
});
const module_ = { exports: {} };
new Function('module', 'exports', 'require', built.outputFiles[0].text)(module_, module_.exports, require);
const values = JSON.parse(process.env.VALUES);
const AsyncFunction = (async () => {}).constructor;
new AsyncFunction('kit', 'values', process.env.CODE)(module_.exports, values).then((value) => console.log(JSON.stringify(value)));
"""


@pytest.fixture(scope="module")
def node() -> str:
    return browsers.needed()[0]


def _run(node: str, code: str, **values: Any) -> Any:
    environment = {"KIT": str(browsers.KIT), "CODE": code, "VALUES": json.dumps(values), "TZ": "UTC"}
    done = subprocess.run([node, "-e", _RUN], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_gate_asks_for_what_the_server_charges(node: str) -> None:
    cases = [("416666.25", 1, "416667"), ("416666.25", 3, "1249999"), ("12000000", 2, "24000000"), ("0", 5, "0")]
    code = "return values.cases.map(([unit, quantity]) => String(kit.chargeMicros(unit, quantity)));"
    assert [want for *_, want in cases] == _run(node, code, cases=cases)


def test_amounts_are_exact_and_promise_no_more_than_there_is(node: str) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("0", {}, "0"),
        ("1000000", {}, "1"),
        ("1234567890000", {}, "1,234,567.89"),
        # A balance is rounded down, a cost up, on either side of zero.
        ("1999999", {}, "1.99"),
        ("1990001", {"round": "up"}, "2"),
        ("-1990001", {}, "-2"),
        ("-1990001", {"round": "up"}, "-1.99"),
        # What two decimals cannot show is shown whole.
        ("1", {}, "0.000001"),
        ("9999", {"round": "up"}, "0.009999"),
        ("-120", {}, "-0.00012"),
        ("1500000", {"decimalsMax": 0}, "1"),
        ("5000000", {"signed": True}, "+5"),
        ("0", {"signed": True}, "0"),
        # Beyond what a float holds.
        ("9007199254740993000000", {}, "9,007,199,254,740,993"),
        ("1234500000", {"locale": "de"}, "1.234,5"),
    ]
    code = "return values.cases.map(([micros, options]) => kit.formatCredits(BigInt(micros), { locale: 'en', ...options }))"
    assert _run(node, code, cases=cases) == [expected for _, _, expected in cases]


def test_prices_are_written_as_their_currency_is(node: str) -> None:
    cases = [("19.00", "eur"), ("19.99", "usd"), ("1000", "jpy"), ("5", ""), ("7.5", "nocurrency")]
    code = "return values.cases.map(([price, currency]) => kit.formatPrice(price, currency, 'en'))"
    assert _run(node, code, cases=cases) == ["€19", "$19.99", "¥1,000", "5", "7.5 NOCURRENCY"]


def test_a_stream_is_read_however_the_network_cuts_it(node: str, backend: conftest.Backend, account_id: str) -> None:
    token = backend.call("CreateToken", tokens_pb2.CreateTokenRequest(account_id=account_id)).token
    code = """
    const found = [];
    for (const size of [1, 2, 4, 5, 6, 64, 100000]) {
      const cut = new TransformStream({ transform(chunk, controller) {
        for (let start = 0; start < chunk.length; start += size) controller.enqueue(chunk.subarray(start, start + size));
      } });
      const fetch_ = async (...args) => {
        const response = await fetch(...args);
        return new Response(response.body.pipeThrough(cut), response);
      };
      const controller = new AbortController();
      const endpoint = { baseUrl: values.url, fetch: fetch_ };
      try {
        for await (const json of kit.stream(endpoint, values.token, 'Accounts/Watch', { accountId: values.account }, controller.signal)) {
          found.push(json.wallets[0].availableMicros);
          controller.abort();
        }
      } catch (error) {
        found.push(error.code);
      }
    }
    return found"""
    assert _run(node, code, url=backend.http_url, token=token, account=account_id) == ["40000000", "canceled"] * 7


def test_a_refusal_of_a_call_and_of_a_stream_has_its_code(
    node: str, backend: conftest.Backend, account_id: str
) -> None:
    token = backend.call("CreateToken", tokens_pb2.CreateTokenRequest(account_id=account_id)).token
    code = """
    const endpoint = { baseUrl: values.url, fetch };
    const other = { accountId: 'somebody-else' };
    const codes = [];
    const told = (error) => codes.push(error.code);
    await kit.unary(endpoint, values.token, 'Accounts/GetBalance', other).catch(told);
    await kit.unary(endpoint, 'none', 'Accounts/GetBalance', other).catch(told);
    await kit.stream(endpoint, values.token, 'Accounts/Watch', other, new AbortController().signal).next().catch(told);
    await kit.unary({ ...endpoint, baseUrl: 'http://127.0.0.1:1' }, values.token, 'Accounts/GetBalance', other).catch(told);
    return codes"""
    codes = _run(node, code, url=backend.http_url, token=token)
    assert codes == ["permission_denied", "unauthenticated", "permission_denied", "unavailable"]


def test_one_token_is_asked_for_at_a_time_and_kept_until_it_is_refused(node: str) -> None:
    code = """
    let asked = 0;
    const tokens = new kit.Tokens(async () => `token-${++asked}`);
    const first = await Promise.all([tokens.token(), tokens.token(), tokens.token()]);
    tokens.refuse('token-0');
    const second = await tokens.token();
    tokens.refuse('token-1');
    return [first, second, await tokens.token()]"""
    assert _run(node, code) == [["token-1"] * 3, "token-1", "token-2"]


def test_all_of_it_renders_on_a_server(node: str) -> None:
    code = """
    const { createElement: h } = kit;
    const page = h(kit.MeterdProvider, { baseUrl: 'http://127.0.0.1:1', account: 'a', token: 't' },
      h(kit.BalanceBadge), h(kit.CreditGate, { feature: 'x', onConfirm() {} }, 'Go'), h(kit.Packages, { onBuy() {} }), h(kit.History));
    const html = kit.renderToString(page);
    return [/data-state="loading"/.test(html), /Loading…/.test(html), /Go/.test(html)]"""
    assert _run(node, code) == [True, True, True]
