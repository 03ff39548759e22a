"""The price data that comes with meterd; made by meterd.pricing.compile."""

from __future__ import annotations

import functools
import gzip
import pathlib
from typing import Any

import orjson

PROVIDERS = "providers.json.gz"
EXTRACTORS = "extractors.json.gz"


def path(name: str) -> pathlib.Path:
    return pathlib.Path(__file__).parent / "data" / name


@functools.cache
def load(name: str) -> list[dict[str, Any]]:
    """The content of a bundled file; read once, not to be changed."""
    return orjson.loads(gzip.decompress(path(name).read_bytes()))
