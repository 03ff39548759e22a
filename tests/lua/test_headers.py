"""Each script's header is its contract: it must say what the body reads and what it answers, and fit what the caller passes."""

from __future__ import annotations

import importlib.resources
import re

import pytest

from meterd.redis import inlining, scripts

FOLDER = importlib.resources.files("meterd.redis").joinpath("lua")
# Bodies longer than this are hard to hold in one's head.
CODE_LINES_MAX = 60
WRITES = ("HSET", "SET", "ZADD", "ZREM", "XADD", "DEL", "HINCRBY", "HDEL", "UNLINK")


def source(name: str) -> str:
    return FOLDER.joinpath(f"{name}.lua").read_text()


def header(name: str) -> str:
    lines = source(name).splitlines()[1:]
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))])


def body(name: str) -> str:
    return "\n".join(line for line in source(name).splitlines() if line.strip() and not line.lstrip().startswith("--"))


def test_every_script_file_is_loaded() -> None:
    files = {entry.name.removesuffix(".lua") for entry in FOLDER.iterdir() if entry.name.endswith(".lua")}
    assert files == {*scripts.NAMES, *scripts.SHARED}


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_opens_with_flags_and_a_contract(name: str) -> None:
    lines = source(name).splitlines()
    assert lines[0] in ("#!lua", "#!lua flags=allow-oom", "#!lua flags=no-writes")
    assert re.search(r"^-- KEYS: 1 ", header(name), re.MULTILINE)
    assert re.search(r"^-- ARGV: 1 epoch", header(name), re.MULTILINE)
    assert re.search(r"^-- Returns (?:[^|]+ or )?\{code, …\}:", header(name), re.MULTILINE)


@pytest.mark.parametrize("name", scripts.NAMES)
def test_the_header_names_every_key_and_argument_that_the_body_reads(name: str) -> None:
    text = header(name).replace("\n--", " ")
    for word in ("KEYS", "ARGV"):
        part = text.split(f"{word}:", 1)[1].split("ARGV:" if word == "KEYS" else "Returns", 1)[0]
        declared = {
            int(number) for number in re.findall(r"(?:^|[,:] )\s*(\d+) [a-z]", " " + part.strip().join([": ", ""]))
        }
        declared |= {int(number) for number in re.findall(r"(\d+) [a-z]", part)}
        used = {int(number) for number in re.findall(rf"\b{word}\[(\d+)\]", body(name))}
        assert used <= declared, f"{word} {sorted(used - declared)} not in the header"


@pytest.mark.parametrize("name", scripts.NAMES)
def test_the_header_names_every_code_that_the_body_answers(name: str) -> None:
    answered = set(re.findall(r"return \{'([A-Z]+)'", body(name)))
    if "replay_reserve" in body(name):
        answered |= {"CONFLICT"}
    missing = {code for code in answered if not re.search(rf"\b{code}\b", header(name))}
    assert missing == set()


@pytest.mark.parametrize("name", scripts.NAMES)
def test_one_line_divides_checks_from_writes(name: str) -> None:
    text = source(name)
    writes = [match.start() for match in re.finditer(rf"call\('(?:{'|'.join(WRITES)})'|\brecord\(KEYS", text)]
    if "flags=no-writes" in text:
        assert writes == []
        return
    dividers = [match.start() for match in re.finditer(r"^-- checks above, writes below$", text, re.MULTILINE)]
    assert len(dividers) == 1
    # The one write above the line: an entry in the deadlines of a hold that is gone.
    early = [at for at in writes if at < dividers[0]]
    assert len(early) <= (1 if name == "expire" else 0)
    assert not re.search(r"return \{'(?!APPLIED|LOADED|EXPIRED|TIDIED|SET\b)[A-Z]+'", text[dividers[0] :])


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_stays_short(name: str) -> None:
    assert len(body(name).splitlines()) <= CODE_LINES_MAX


@pytest.mark.parametrize("name", [*scripts.NAMES, *scripts.SHARED])
def test_no_number_is_turned_into_text_by_concatenation_or_tostring(name: str) -> None:
    assert "tostring" not in body(name)


@pytest.mark.parametrize("name", [*scripts.NAMES, *scripts.SHARED])
def test_no_failure_is_passed_over_but_that_of_the_last_write(name: str) -> None:
    passed_over = re.findall(r"pcall\('(\w+)'", body(name))
    assert passed_over == (["ZREM"] if name == "prelude" else [])
    assert "pcall" not in body(name).replace("redis.pcall('ZREM'", "")


def _outside(name: str) -> list[str]:
    """Lines that use a function outside of the blocks whose comment says that it is only there."""
    found: list[str] = []
    lines = source(name).splitlines()
    rare = {word for line in lines for word in _named(line)}
    open_blocks: list[tuple[int, set[str]]] = []
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        open_blocks = [block for block in open_blocks if block[0] <= depth]
        if named := _named(line):
            open_blocks.append((depth, named))
            continue
        used = set(re.findall(r"\b(\w+)\(", line)) & rare if not line.lstrip().startswith("--") else set[str]()
        if used - {word for _, words in open_blocks for word in words}:
            found.append(line)
    return found


def _named(line: str) -> set[str]:
    match = re.match(r" +-- only here: ([\w, ]+)$", line)
    return set(match[1].split(", ")) if match else set()


@pytest.mark.parametrize("name", scripts.NAMES)
def test_what_is_only_in_a_block_is_used_and_made_there_alone(name: str) -> None:
    assert _outside(name) == []
    text = scripts.read(name).text
    head = text[: text.index("local epoch")]
    for word in {word for line in source(name).splitlines() for word in _named(line)}:
        made = f"local function {word}("
        assert made in text or not re.search(rf"\b{word}\(", text)
        if not re.search(rf"\b{word}\(", head):
            assert made not in head


@pytest.mark.parametrize("verb", ["reserve", "commit"])
def test_the_hot_path_makes_no_function(verb: str) -> None:
    """Redis makes every function of a script anew for each call."""
    head = scripts.read(verb).text.partition("local epoch")[0]
    assert re.findall(r"^local function (\w+)", head, re.MULTILINE) == []


def test_functions_are_in_place_where_they_are_called() -> None:
    functions = inlining.found_in(
        (
            "-- Doubled.\n-- in place\nlocal function twice(n)\n  return n * 2\nend",
            "-- in place\nlocal function pair(x, y)\n  -- Told.\n  local z = twice(x + y)\n  return z, y\nend",
            "-- in place\nlocal function noted(x)\n  call('SET', x)\nend",
        )
    )
    code = "local a, b = pair(f(1, 2), {3, 4})\nif a then\n  noted(b)\nend\nreturn twice(a[1]) + pair(1, 2)"
    assert inlining.without_comments(inlining.put_in_place(code, functions)).splitlines() == [
        "local a, b",
        "do",
        "  local x, y = f(1, 2), {3, 4}",
        "  local z = ((x + y) * 2)",
        "  a, b = z, y",
        "end",
        "if a then",
        "  do",
        "    local x = b",
        "    call('SET', x)",
        "  end",
        "end",
        "return ((a[1]) * 2) + pair(1, 2)",
    ]


@pytest.mark.parametrize(
    ("function", "code", "told"),
    [
        ("local function f(x)\n  if x then return 1 end\n  return 2\nend", "", "f is to be put in place, and returns"),
        ("local function f(x)\n  local y = x\n  return y\nend", "y = f(1)", "f hides y, which its caller assigns to"),
        ("local function f(x)\n  x = x + 1\n  return x\nend", "local x = f(1)", "f hides x, which"),
    ],
)
def test_what_cannot_be_in_place_is_refused(function: str, code: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        inlining.put_in_place(code, inlining.found_in((f"-- in place\n{function}",)))
