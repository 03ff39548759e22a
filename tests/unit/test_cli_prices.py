"""`meterd prices`: what each command prints, and its exit status."""

from __future__ import annotations

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from meterd.cli import prices
from meterd.pricing import books

FILE = """
margins: {default: 1.5}
unknown_model: {policy: quarantine, prices: {input_mtok: 30, output_mtok: 60}}
models:
  - provider: openai
    model: gpt-4o-mini
    prices: {input_mtok: 0.2, output_mtok: 0.8}
features: {letter: {credits: 12}}
rates: {minute: {credits: 0.5}}
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "prices.yaml"
    found.write_text(FILE)
    return found


def run(*arguments: object, **env: str) -> Result:
    names = ("METERD_PRICES", "METERD_PRICES_FILE", "METERD_POSTGRES_DSN")
    given: dict[str, str | None] = {**dict.fromkeys(names), "COLUMNS": "120", **env}
    return CliRunner().invoke(prices.prices, [str(argument) for argument in arguments], env=given)


# ---- show


def test_show_prints_a_table_in_usd_and_credits() -> None:
    found = run("show", "gpt-4o-mini")
    assert found.exit_code == 0
    assert f"model:openai/gpt-4o-mini, margin × 1, price version {books.compiled().version}" in found.stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in found.stdout.splitlines() if "│" in line]
    assert cells[:3] == [
        ["input", "", "1,000,000", "0.15", "150"],
        ["cache_read", "", "1,000,000", "0.075", "75"],
        ["output", "", "1,000,000", "0.6", "600"],
    ]


def test_show_says_what_a_long_context_costs() -> None:
    found = json.loads(run("show", "claude-sonnet-4-5", "--json").stdout)
    by_class = {(row["usage_class"], row["above_input_tokens"]): row["usd"] for row in found["prices"]}
    assert (by_class["input", 0], by_class["input", 200_000]) == ("3", "6")
    assert (by_class["cache_write_1h", 0], by_class["cache_write_1h", 200_000]) == ("6", "12")


def test_show_has_the_margin_of_the_price_file(path: pathlib.Path) -> None:
    for found in (
        run("show", "gpt-4o-mini", "--prices", path, "--json"),
        run("show", "gpt-4o-mini", "--json", METERD_PRICES=str(path)),
    ):
        answer = json.loads(found.stdout)
        assert (answer["item"], answer["margin"], answer["credit_value_usd"]) == (
            "model:openai/gpt-4o-mini",
            "1.5",
            "0.001",
        )
        assert answer["price_version"] == books.compiled(FILE).version
        assert answer["prices"][0] == {
            "usage_class": "input",
            "above_input_tokens": 0,
            "per": 1_000_000,
            "usd": "0.2",
            "credits": "300",
        }


def test_show_takes_the_servers_price_file_from_the_environment(path: pathlib.Path) -> None:
    found = run("show", "gpt-4o-mini", "--json", METERD_PRICES_FILE=str(path))
    assert json.loads(found.stdout)["margin"] == "1.5"


def test_show_takes_a_tier_and_a_time() -> None:
    batch = json.loads(run("show", "gpt-4o-mini", "--tier", "batch", "--at", "2026-11-01", "--json").stdout)
    assert batch["prices"][0]["usd"] == "0.075"
    before = json.loads(run("show", "o3", "--at", "2025-06-09T23:59:59Z", "--json").stdout)
    after = json.loads(run("show", "o3", "--at", "2025-06-10", "--json").stdout)
    assert (before["prices"][0]["usd"], after["prices"][0]["usd"]) == ("10", "2")


def test_show_marks_an_unknown_model_that_is_in_quarantine(path: pathlib.Path) -> None:
    found = run("show", "brand-new", "--prices", path)
    assert found.exit_code == 0
    assert "Unknown model, priced at the ceiling rate of the price file (quarantine)." in found.stdout
    assert json.loads(run("show", "brand-new", "--prices", path, "--json").stdout)["quarantined"] is True


def test_show_reads_a_dumped_book(tmp_path: pathlib.Path) -> None:
    dumped = tmp_path / "book.json"
    dumped.write_bytes(books.dump(books.compiled(FILE)))
    assert json.loads(run("show", "gpt-4o-mini", "--prices", dumped, "--json").stdout)["margin"] == "1.5"


def test_show_fails_for_a_model_without_a_price() -> None:
    found = run("show", "nonsense")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == "Error: model: no price for 'nonsense' in the price book\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("show",), 2, "Missing argument 'MODEL'"),
        (("show", "gpt-4o", "--at", "yesterday"), 2, "Invalid value for --at: must be a date or a time"),
        (("show", "gpt-4o", "--tier", "größe"), 1, "service_tier: must be at most 64 letters"),
        (("show", "gpt-4o", "--prices", "/none.yaml"), 1, "/none.yaml: no such file"),
        (("show", "gpt-4o", "--prices", "0f7b6c194711"), 1, "a version is kept in Postgres; name it with --postgres"),
        (
            ("show", "gpt-4o", "--prices", "0f7b6c194711", "--postgres", "postgres://u@127.0.0.1:1/none"),
            1,
            "0f7b6c194711: ",
        ),
        (("show", "gpt-4o", "--prices", "0f7b6c194711", "--postgres", "no dsn"), 1, "0f7b6c194711: "),
    ],
)
def test_show_says_what_is_wrong_on_standard_error(arguments: tuple[str, ...], status: int, message: str) -> None:
    found = run(*arguments)
    assert (found.exit_code, found.stdout) == (status, "")
    assert message in found.stderr


# ---- diff


def test_diff_lists_what_is_charged_differently_and_ends_with_1(path: pathlib.Path) -> None:
    found = run("diff", "bundled", path, "--json")
    assert found.exit_code == 1
    answer = json.loads(found.stdout)
    assert (answer["before"], answer["after"]) == (books.compiled().version, books.compiled(FILE).version)
    changes = {(row["item"], row["name"]): (row["before"], row["after"]) for row in answer["changes"]}
    assert changes == {
        ("book", "unknown_model.policy"): ("deny", "quarantine"),
        ("book", "unknown_model.input_mtok"): ("", "30"),
        ("book", "unknown_model.output_mtok"): ("", "60"),
        ("margin", "default"): ("1", "1.5"),
        ("model:openai/gpt-4o-mini", "own input_mtok"): ("", "0.2"),
        ("model:openai/gpt-4o-mini", "own output_mtok"): ("", "0.8"),
        ("feature:letter", "credits"): ("", "12"),
        ("feature:letter", "active"): ("", "true"),
        ("rate:minute", "credits"): ("", "0.5"),
        ("rate:minute", "fractional"): ("", "true"),
    }
    table = run("diff", "bundled", path)
    assert (table.exit_code, "own input_mtok" in table.stdout) == (1, True)


def test_diff_of_equal_books_ends_with_0(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"# the same\n{FILE}")
    found = run("diff", path, other)
    assert (found.exit_code, found.stdout) == (0, f"Both charge the same ({books.compiled(FILE).version}).\n")
    assert json.loads(run("diff", path, other, "--json").stdout)["changes"] == []


@pytest.mark.parametrize("content", [None, "margins: 7", "{"])
def test_diff_of_what_cannot_be_read_ends_with_2(tmp_path: pathlib.Path, content: str | None) -> None:
    bad = tmp_path / "bad.yaml"
    if content is not None:
        bad.write_text(content)
    for arguments in (("bundled", bad), (bad, "bundled")):
        found = run("diff", *arguments)
        assert (found.exit_code, found.stdout) == (2, "")
        assert str(bad) in found.stderr


def test_diff_of_a_broken_dump_ends_with_2(tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "book.json"
    broken.write_bytes(b"{}")
    found = run("diff", "bundled", broken)
    assert (found.exit_code, "price book: cannot be read" in found.stderr) == (2, True)


# ---- check


def test_check_says_what_is_in_a_right_file(path: pathlib.Path) -> None:
    version = books.compiled(FILE).version
    found = run("check", path)
    assert found.exit_code == 0
    assert found.stdout == (
        f"{path}: right. Version {version}: 1 own models, 1 features, 1 rates, on top of 2330 known models.\n"
    )
    answer = json.loads(run("check", path, "--json").stdout)
    assert answer == {"ok": True, "price_version": version, "models": 2330, "own_models": 1, "features": 1, "rates": 1}


def test_check_names_line_and_field_of_an_error(tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("features:\n  letter:\n    credits: -1\n")
    found = run("check", bad)
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == f"Error: {bad}:3: features.letter.credits: must not be negative\n"
    as_json = run("check", bad, "--json")
    assert as_json.exit_code == 1
    problem = {"line": 3, "place": "features.letter.credits", "reason": "must not be negative"}
    assert json.loads(as_json.stdout) == {"ok": False, "error": problem}


def test_check_fails_for_a_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    found = run("check", tmp_path / "none.yaml")
    assert (found.exit_code, "cannot be read: No such file" in found.stderr) == (1, True)


@pytest.mark.parametrize("command", ["show", "diff", "check"])
def test_help_says_the_exit_status(command: str) -> None:
    found = run(command, "--help")
    assert (found.exit_code, "Exit status: 0" in found.stdout) == (0, True)
