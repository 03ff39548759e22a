"""The UI kit in a real browser, against a real meterd: the page is examples/react."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meterd_client.v1 import accounts_pb2
from tests.react import browser as browsers
from tests.react import conftest

BADGE = "page.locator('.meterd-badge-amount').textContent()"
STATE = "page.locator('.meterd-badge').getAttribute('data-state')"
TITLE = "page.getByRole('dialog').getByRole('heading').textContent()"
OPEN_DIALOGS = "page.locator('dialog[open]').count()"
FOCUS = "page.evaluate(() => document.activeElement.textContent)"
LETTER = "page.getByRole('button', { name: /Write a cover letter/ })"
VIDEO = "page.getByRole('button', { name: /Render a video/ })"
ENTRIES = "page.locator('.meterd-history-entry').count()"
# What the badge has been through since the script ran.
RECORD_STATES = """await page.evaluate(() => {
  window.states = [];
  const badge = document.querySelector('.meterd-badge');
  new MutationObserver(() => window.states.push(badge.dataset.state)).observe(badge, { attributeFilter: ['data-state'] });
})"""
COUNT_TOKENS = """globalThis.tokens = 0;
page.on('request', (request) => { if (request.url().endsWith('/api/token')) globalThis.tokens += 1; })"""

Started = Callable[..., str]


def _click(browser: browsers.Browser, locator: str) -> None:
    browser.run(f"await {locator}.click()")


def _button(name: str) -> str:
    return f"page.getByRole('dialog').getByRole('button', {{ name: '{name}' }})"


@pytest.mark.parametrize("react", ["react", "react-18"])
def test_a_charge_over_grpc_is_seen_and_told_at_once(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str, react: str
) -> None:
    browser.open(example(REACT=react))
    browser.expect(BADGE, "40 credits")
    browser.expect(STATE, "live")
    backend.charge(account_id, 7)
    browser.expect(BADGE, "33 credits")
    # Screen readers are told when it rests.
    browser.expect("page.locator('.meterd-badge').getByRole('status').textContent()", "33 credits available")
    browser.expect("page.locator('.meterd-history-amount').first().textContent()", "-7")


def test_a_low_balance_says_so(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    backend.charge(account_id, 21)
    browser.open(example())
    browser.expect("page.locator('.meterd-badge-view').textContent()", "19 creditsLow balance")


def test_a_gate_tells_the_price_asks_and_does_it_once(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example())
    browser.expect(f"{LETTER}.textContent()", "Write a cover letter1212 credits")
    browser.expect(BADGE, "40 credits")
    _click(browser, LETTER)
    browser.expect(TITLE, "Write a cover letter?")
    browser.expect("page.locator('.meterd-gate-summary dd').allTextContents()", ["40", "-12", "28"])
    assert backend.available_credits(account_id) == 40
    browser.run(f"await {_button('Confirm')}.dblclick()")
    browser.expect(OPEN_DIALOGS, 0)
    browser.expect(BADGE, "28 credits")
    browser.expect("page.locator('.meterd-history-title').first().textContent()", "Write a cover letter")
    assert backend.available_credits(account_id) == 28


def test_a_gate_without_enough_credits_leads_to_a_purchase_and_then_opens(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example())
    browser.expect(BADGE, "40 credits")
    _click(browser, VIDEO)
    browser.expect(TITLE, "Not enough credits")
    browser.expect(
        "page.locator('dialog[open] .meterd-gate-text').textContent()", "You need 860 credits more for this."
    )
    browser.expect(f"{_button('Confirm')}.count()", 0)
    _click(browser, _button("Buy credits"))
    browser.expect(OPEN_DIALOGS, 0)
    _click(browser, "page.getByRole('button', { name: 'Buy Growth, €22.50' })")
    browser.expect(BADGE, "2,790 credits")
    _click(browser, VIDEO)
    _click(browser, _button("Confirm"))
    browser.expect(BADGE, "1,890 credits")
    assert backend.available_credits(account_id) == 1_890


def test_credits_that_come_while_the_gate_says_no_turn_it_into_a_question(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example())
    browser.expect(BADGE, "40 credits")
    _click(browser, VIDEO)
    browser.expect(TITLE, "Not enough credits")
    backend.grant(account_id, 1_000)
    browser.expect(TITLE, "Render a video?")
    browser.expect(FOCUS, "Confirm")


def test_a_denial_by_the_server_is_shown_as_one(browser: browsers.Browser, example: Started) -> None:
    denying = "await page.route('**/api/charge', (route) => route.fulfill({ status: 402, json: {} }))"
    browser.open(example(), code=denying)
    browser.expect(BADGE, "40 credits")
    _click(browser, LETTER)
    _click(browser, _button("Confirm"))
    browser.expect(TITLE, "Not enough credits")


def test_a_call_that_fails_can_be_tried_again_and_is_not_left_while_it_runs(
    browser: browsers.Browser, example: Started
) -> None:
    failing_once = """await page.route('**/api/charge', async (route) => {
      await new Promise((resolve) => { globalThis.fail = resolve; });
      await route.abort();
    }, { times: 1 })"""
    browser.open(example(), code=failing_once)
    browser.expect(BADGE, "40 credits")
    _click(browser, LETTER)
    _click(browser, _button("Confirm"))
    browser.expect(f"{_button('Working…')}.getAttribute('aria-busy')", "true")
    browser.run("await page.keyboard.press('Escape')")
    browser.run("await page.mouse.click(2, 2)")
    browser.expect(OPEN_DIALOGS, 1)
    browser.run("globalThis.fail()")
    browser.expect("page.getByRole('alert').textContent()", "That did not work. You can try again.")
    _click(browser, _button("Confirm"))
    browser.expect(BADGE, "28 credits")
    browser.expect(OPEN_DIALOGS, 0)


def test_a_dialog_keeps_the_focus_and_gives_it_back(browser: browsers.Browser, example: Started) -> None:
    browser.open(example())
    browser.expect(BADGE, "40 credits")
    browser.run(f"await {LETTER}.focus()")
    browser.run("await page.keyboard.press('Enter')")
    browser.expect(FOCUS, "Confirm")
    for key, focused in (("Tab", "Cancel"), ("Tab", "Confirm"), ("Shift+Tab", "Cancel"), ("Shift+Tab", "Confirm")):
        browser.run("await page.keyboard.press(values.key)", key=key)
        browser.expect(FOCUS, focused)
    browser.run("await page.keyboard.press('Escape')")
    browser.expect(OPEN_DIALOGS, 0)
    browser.expect(FOCUS, "Write a cover letter1212 credits")
    # By the keyboard alone to the end.
    for key in ("Space", "Enter"):
        browser.run("await page.keyboard.press(values.key)", key=key)
    browser.expect(BADGE, "28 credits")
    browser.expect(FOCUS, "Write a cover letter1212 credits")


def test_a_gate_that_does_not_ask_acts_at_once(browser: browsers.Browser, example: Started) -> None:
    browser.open(example())
    browser.expect(BADGE, "40 credits")
    _click(browser, "page.getByRole('button', { name: 'Ask the model 0.15 credits' })")
    browser.expect(BADGE, "39.85 credits")
    browser.expect(OPEN_DIALOGS, 0)


def test_a_plan_that_pays_is_shown_and_so_is_the_end_of_its_day(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    subscribe = accounts_pb2.SubscribeRequest(
        idempotency_key=f"plan-{account_id}", account_id=account_id, plan_id="unlimited"
    )
    backend.call("Subscribe", subscribe)
    browser.open(example())
    browser.expect(BADGE, "Unlimited")
    browser.expect(f"{VIDEO}.textContent()", "Render a videoIncluded")
    for count in (1, 2):
        _click(browser, VIDEO)
        browser.expect(TITLE, "Render a video?")
        _click(browser, _button("Confirm"))
        browser.expect("page.locator('.done').textContent()", "Done: Render a video.")
        browser.expect(OPEN_DIALOGS, 0)
        assert count == 1 or backend.available_credits(account_id) == 40
    browser.expect("page.locator('.meterd-gate').first().getAttribute('data-verdict')", "daily")
    _click(browser, VIDEO)
    browser.expect(TITLE, "Daily limit reached")


def test_packages_are_those_of_the_catalog(browser: browsers.Browser, example: Started) -> None:
    browser.open(example())
    browser.expect(
        "page.locator('.meterd-packages-card').evaluateAll((all) => all.map((one) => one.innerText.split(/\\n+/)))",
        [
            ["Starter", "500 credits", "500 credits", "€5", "Buy", "Buy Starter, €5"],
            [
                *("Growth", "Popular", "2,500 credits", "2,500 credits", "+ 250 bonus", "Save 10%"),
                *("€22.50", "Buy", "Buy Growth, €22.50"),
            ],
            [
                *("Studio", "10,000 credits", "10,000 credits", "+ 2,000 bonus", "Save 20%"),
                *("€80", "Buy", "Buy Studio, €80"),
            ],
        ],
    )


def test_history_comes_by_pages_and_grows_by_itself(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    for credits in range(1, 7):
        backend.charge(account_id, credits)
    more = "page.getByRole('button', { name: 'Show more' })"
    amounts = "page.locator('.meterd-history-amount').allTextContents()"
    browser.open(example())
    browser.expect(amounts, ["-6", "-5", "-4", "-3", "-2"])
    backend.charge(account_id, 9)
    browser.expect(amounts, ["-9", "-6", "-5", "-4", "-3", "-2"])
    _click(browser, more)
    browser.expect(amounts, ["-9", "-6", "-5", "-4", "-3", "-2", "-1", "+40"])
    browser.expect("page.locator('.meterd-history').getByRole('status').textContent()", "2 more entries")
    # The button is gone: the focus goes on where the reader reads on.
    browser.expect(f"{more}.count()", 0)
    browser.expect("page.evaluate(() => document.activeElement.innerText.split('\\n')[1])", "-1")


def test_a_token_is_renewed_before_it_expires_and_nobody_sees_it(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example(TOKEN_TTL_MS="2000"), code=COUNT_TOKENS)
    browser.expect(STATE, "live")
    browser.run(RECORD_STATES)
    browser.expect("globalThis.tokens >= 4", True)
    assert browser.run("return page.evaluate(() => window.states)") == []
    backend.charge(account_id, 1)
    browser.expect(BADGE, "39 credits")


def test_a_token_that_is_refused_is_replaced(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example(), code=COUNT_TOKENS)
    browser.expect(STATE, "live")
    browser.expect("globalThis.tokens", 1)
    # A server that starts knows of it at once; one that runs hears of it within half a minute.
    backend.made.server.kill()
    backend.made.meterd("keys", "rotate-tokens", "--at-once")
    backend.start_again()
    browser.expect("globalThis.tokens", 2)
    browser.expect(STATE, "live")
    backend.charge(account_id, 1)
    browser.expect(BADGE, "39 credits")


def test_a_server_that_restarts_is_found_again(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example())
    browser.expect(BADGE, "40 credits")
    backend.made.server.kill()
    browser.expect(STATE, "stale")
    # What was known stays.
    browser.expect(BADGE, "40 credits")
    backend.start_again()
    backend.charge(account_id, 3)
    browser.expect(BADGE, "37 credits")
    browser.expect(STATE, "live")


def test_where_no_stream_gets_through_the_balance_is_asked_for(
    backend: conftest.Backend, browser: browsers.Browser, example: Started, account_id: str
) -> None:
    browser.open(example(), code="await page.route('**/meterd.v1.Accounts/Watch', (route) => route.abort())")
    browser.expect(STATE, "polling")
    browser.expect(BADGE, "40 credits")
    backend.charge(account_id, 5)
    browser.expect(BADGE, "35 credits")


def test_a_theme_can_be_chosen_against_the_system(browser: browsers.Browser, example: Started) -> None:
    colour = "page.locator('.meterd-badge').evaluate((one) => getComputedStyle(one).backgroundColor)"
    browser.open(example(), scheme="dark")
    browser.expect(colour, "rgb(23, 26, 34)")
    browser.run("await page.getByLabel('Theme').selectOption('light')")
    browser.expect(colour, "rgb(255, 255, 255)")
    browser.run("await page.getByLabel('Theme').selectOption('dark')")
    browser.expect(colour, "rgb(23, 26, 34)")
