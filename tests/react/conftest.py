"""One meterd and one Chromium for all tests of the UI kit; each test has an account and a page of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meterd.core import money
from meterd.embedded import process
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests import places
from tests.acceptance import installation, processes
from tests.react import browser as browsers

CATALOG = browsers.ROOT / "examples" / "react" / "catalog.yaml"
# Of the catalog: what a new account begins with.
WELCOME_CREDITS = 40


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if pathlib.Path(item.fspath).parent == pathlib.Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("react"))


@dataclasses.dataclass
class Backend:
    """meterd, as the tests need it."""

    made: installation.Installation
    http_url: str

    def call(self, verb: str, request: Any) -> Any:
        """Over gRPC, with the admin's key."""
        with self.made.client() as client:
            return client.call(verb, request)

    def create(self, account_id: str) -> str:
        self.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id))
        return account_id

    def charge(self, account_id: str, credits: int) -> None:
        amount_micros = credits * money.MICROS_PER_CREDIT
        request = metering_pb2.ChargeRequest(
            idempotency_key=installation.new_id(),
            account_id=account_id,
            credits=types_pb2.CreditsCharge(amount_micros=amount_micros),
        )
        assert self.call("Charge", request).HasField("settlement")

    def grant(self, account_id: str, credits: int) -> None:
        request = accounts_pb2.GrantRequest(
            idempotency_key=installation.new_id(),
            account_id=account_id,
            amount_micros=credits * money.MICROS_PER_CREDIT,
            category=types_pb2.GRANT_CATEGORY_PAID,
        )
        assert self.call("Grant", request).projected

    def start_again(self) -> None:
        """After a kill."""
        self.made.server.start()
        processes.wait_until(self.made.is_serving, "health SERVING")

    def available_credits(self, account_id: str) -> float:
        reply = self.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id))
        return sum(one.available_micros for one in reply.wallets) / money.MICROS_PER_CREDIT


@pytest.fixture(scope="session")
def tools() -> tuple[str, str]:
    """Paths of Node and Chromium."""
    return browsers.needed()


@pytest.fixture(scope="session")
def backend(tools: tuple[str, str]) -> Iterator[Backend]:
    del tools  # Nothing is started where they are missing.
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(places.store_directory("react"))
        address = f"127.0.0.1:{process.free_port()}"
        settings = {
            "METERD_HTTP_ADDRESS": address,
            "METERD_HTTP_CORS_ORIGINS": "*",
            "METERD_LAME_DUCK_MS": "0",
            "METERD_DRAIN_MS": "500",
        }
        made = stack.enter_context(installation.installed(pathlib.Path(directory), **settings))
        backend = Backend(made=made, http_url=f"http://{address}")
        document = CATALOG.read_text(encoding="utf-8")
        assert backend.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document)).applied
        yield backend


@pytest.fixture(scope="session")
def chromium(tools: tuple[str, str]) -> Iterator[browsers.Browser]:
    with browsers.browsing(*tools) as running:
        yield running


@pytest.fixture
def browser(chromium: browsers.Browser) -> Iterator[browsers.Browser]:
    """Fails a test whose page has thrown or complained."""
    yield chromium
    assert chromium.problems() == []


_numbers = itertools.count(1)


@pytest.fixture
def account_id(backend: Backend) -> str:
    """A new account, with the welcome bonus of 40 credits."""
    return backend.create(f"reader-{next(_numbers)}")


@pytest.fixture
def example(tools: tuple[str, str], backend: Backend, account_id: str) -> Iterator[Callable[..., str]]:
    """Starts the example for the account and answers its address; keyword arguments are its environment variables."""
    with contextlib.ExitStack() as stack:

        def started(**settings: str) -> str:
            key = {"METERD_URL": backend.http_url, "METERD_KEY": backend.made.admin_key, "METERD_ACCOUNT": account_id}
            return stack.enter_context(browsers.example(tools[0], **(key | settings)))

        yield started
