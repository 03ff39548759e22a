"""What the default theme looks like: nothing overflows, and axe finds nothing, in light and dark, at 320 pixels and on a desk.

SCREENSHOTS names a folder for pictures of all that is looked at.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from tests.react import browser as browsers
from tests.react import conftest

WIDTHS = {"narrow": 320, "desk": 1280}
# What sticks out of the page, or of its own box with something to read.
OVERFLOWING = """page.evaluate(() => [...document.querySelectorAll('body *')]
  .filter((one) => getComputedStyle(one).clipPath !== 'inset(50%)')
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5
    || (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline' && one.clientWidth > 0))
  .map((one) => `${one.tagName} ${one.className} ${one.scrollWidth} > ${one.clientWidth}`))"""


def _picture(browser: browsers.Browser, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        path = pathlib.Path(folder) / f"{name}.png"
        browser.run(
            "await page.screenshot({ path: values.path, fullPage: values.full })",
            path=str(path),
            full=not name.endswith(("confirm", "short")),
        )


def _check(browser: browsers.Browser, name: str) -> None:
    _picture(browser, name)
    assert browser.audit() == []
    browser.expect(OVERFLOWING, [])


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_fits_and_reads_well(
    backend: conftest.Backend,
    browser: browsers.Browser,
    example: Callable[..., str],
    account_id: str,
    scheme: str,
    size: str,
) -> None:
    for credits in (1, 2, 3, 4, 5):
        backend.charge(account_id, credits)
    backend.grant(account_id, 1_000)
    held_micros = 250_000_000
    with backend.made.client() as client:
        client.reserve_credits(account_id, held_micros)
    browser.open(example(), width=WIDTHS[size], scheme=scheme)
    browser.expect("page.locator('.meterd-badge-view').textContent()", "775 credits250 on hold")
    browser.expect("page.locator('.meterd-history-entry').count()", 5)
    _check(browser, f"{scheme}-{size}-page")
    browser.run("await page.getByRole('button', { name: /Write a cover letter/ }).click()")
    browser.expect("page.getByRole('dialog').isVisible()", True)
    _check(browser, f"{scheme}-{size}-confirm")
    browser.run("await page.keyboard.press('Escape')")
    browser.run("await page.getByRole('button', { name: /Render a video/ }).click()")
    browser.expect("page.getByRole('dialog').getByRole('heading').textContent()", "Not enough credits")
    _check(browser, f"{scheme}-{size}-short")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_moment_and_the_failures_read_well_too(
    browser: browsers.Browser, example: Callable[..., str], scheme: str
) -> None:
    hung = "await page.route('**/meterd.v1.*/**', () => undefined)"
    browser.open(example(), width=WIDTHS["narrow"], scheme=scheme, code=hung)
    browser.expect("page.locator('[aria-busy=true]').count()", 3)
    _check(browser, f"{scheme}-loading")
    refusing = "await page.route('**/meterd.v1.*/**', (route) => route.abort())"
    browser.open(example(), width=WIDTHS["narrow"], scheme=scheme, code=refusing)
    browser.expect("page.locator('.meterd-badge-amount').textContent()", "Balance unavailable")
    browser.expect("page.getByRole('alert').count()", 2)
    _check(browser, f"{scheme}-failed")
