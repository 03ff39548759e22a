"""One installation for the stories that leave it whole; those that break it make their own."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from tests import places
from tests.acceptance import installation

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if pathlib.Path(item.fspath).parent == pathlib.Path(__file__).parent:
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(scope="module")
def shared() -> Iterator[installation.Installation]:
    with places.store_directory("acceptance") as directory, installation.installed(pathlib.Path(directory)) as made:
        yield made


@pytest.fixture
def install() -> Iterator[Callable[..., installation.Installation]]:
    """Makes an installation that the test may break; keyword arguments are METERD_* variables."""
    with contextlib.ExitStack() as stack:

        def made(**settings: str) -> installation.Installation:
            directory = pathlib.Path(stack.enter_context(places.store_directory("acceptance")))
            return stack.enter_context(installation.installed(directory, **settings))

        yield made


@pytest.fixture(scope="session")
def azure_trace() -> pathlib.Path:
    directory = pathlib.Path(os.environ.get("METERD_SHARED_DATA") or _ROOT.parent / "shared" / "data")
    path = directory / "azure_llm_inference_2023_code.csv"
    if not path.exists():
        pytest.skip(f"the Azure trace is not there: set METERD_SHARED_DATA to the folder with {path.name}")
    return path
