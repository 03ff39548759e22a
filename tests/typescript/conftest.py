"""One meterd and one of each runtime for all tests of the TypeScript client that leave them whole."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest

from examples.provider import provider as providers
from meterd.embedded import process
from tests import places
from tests.acceptance import installation
from tests.typescript import runtimes

PRICES = """
features:
  cover_letter: {credits: 12}
rates:
  vm_minute: {credits: 0.5}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if pathlib.Path(item.fspath).parent == pathlib.Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("typescript"))
            if not runtimes.has_node():
                item.add_marker(pytest.mark.skip(reason=runtimes.ABSENT))


@pytest.fixture(scope="session")
def runtime_directory() -> Iterator[pathlib.Path]:
    with places.store_directory("typescript") as directory:
        yield pathlib.Path(directory)


@pytest.fixture(scope="session")
def meterd(runtime_directory: pathlib.Path) -> Iterator[installation.Installation]:
    """Serves gRPC and HTTP; `http_url` tells where."""
    prices = runtime_directory / "prices.yaml"
    prices.write_text(PRICES, encoding="utf-8")
    settings = {
        "METERD_HTTP_ADDRESS": f"127.0.0.1:{process.free_port()}",
        "METERD_PRICES_FILE": str(prices),
        "METERD_LAME_DUCK_MS": "0",
    }
    with installation.installed(runtime_directory, **settings) as made:
        yield made


@pytest.fixture(scope="session")
def provider() -> Iterator[providers.Provider]:
    with providers.Provider() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def runtime(runtime_directory: pathlib.Path) -> Iterator[Callable[[str], runtimes.Runtime]]:
    """A running runtime by name, the same for all tests; one that is not running is started again."""
    with contextlib.ExitStack() as stack:
        made: dict[str, runtimes.Runtime] = {}

        def get(name: str) -> runtimes.Runtime:
            if name not in made:
                made[name] = stack.enter_context(runtimes.running(name, runtime_directory))
            elif not made[name].is_running:
                made[name].start()
            return made[name]

        yield get
