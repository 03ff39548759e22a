"""The commands that go through a server: what they send over real gRPC, what they print, and how they exit."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import click
import click.testing
import grpc
import pytest
import trustme

from meterd.cli import accounts as commands
from meterd.cli import console
from meterd_client.v1 import accounts_pb2, accounts_pb2_grpc, types_pb2

KEY = "mk_" + "k" * 43
HOLDS = 2_500


class Recorder(accounts_pb2_grpc.AccountsServicer):
    """Answers what the test decides and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.refusal: tuple[grpc.StatusCode, str] | None = None

    def _seen(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusal is not None:
            context.abort(*self.refusal)

    def CreateAccount(self, request: Any, context: Any) -> accounts_pb2.CreateAccountResponse:
        self._seen(request, context)
        return accounts_pb2.CreateAccountResponse(account=accounts_pb2.Account(account_id=request.account_id))

    def GetAccount(self, request: Any, context: Any) -> accounts_pb2.GetAccountResponse:
        self._seen(request, context)
        found = accounts_pb2.Account(account_id=request.account_id, overage_policy=types_pb2.OVERAGE_POLICY_OVERDRAFT)
        return accounts_pb2.GetAccountResponse(account=found)

    def Grant(self, request: Any, context: Any) -> accounts_pb2.GrantResponse:
        self._seen(request, context)
        made = accounts_pb2.GrantRecord(grant_id="g-1", amount_micros=request.amount_micros)
        balance = types_pb2.Balance(available_micros=-request.amount_micros)
        return accounts_pb2.GrantResponse(grant=made, projected=True, balance=balance)

    def SetLimit(self, request: Any, context: Any) -> accounts_pb2.SetLimitResponse:
        self._seen(request, context)
        return accounts_pb2.SetLimitResponse(limit=request.limit, projected=True)

    def DeleteLimit(self, request: Any, context: Any) -> accounts_pb2.DeleteLimitResponse:
        self._seen(request, context)
        return accounts_pb2.DeleteLimitResponse(replayed=True, projected=True)

    def ListLimits(self, request: Any, context: Any) -> accounts_pb2.ListLimitsResponse:
        self._seen(request, context)
        limit = accounts_pb2.Limit(
            limit_id="day",
            subject=types_pb2.LIMIT_SUBJECT_USER,
            metric=types_pb2.LIMIT_METRIC_CREDITS,
            window=types_pb2.LIMIT_WINDOW_ROLLING_DAY,
            amount=100_500_000,
        )
        use = accounts_pb2.LimitUse(value="alice", used=2_500_000, would_deny_count=1_234)
        use.resets_at.FromMilliseconds(1_700_000_000_000)
        other = accounts_pb2.LimitUse(value="bob", used=1)
        return accounts_pb2.ListLimitsResponse(limits=[accounts_pb2.LimitStatus(limit=limit, uses=[use, other])])

    def RevokeGrant(self, request: Any, context: Any) -> accounts_pb2.RevokeGrantResponse:
        self._seen(request, context)
        return accounts_pb2.RevokeGrantResponse(revoked_micros=1_500_000)

    def GetBalance(self, request: Any, context: Any) -> accounts_pb2.GetBalanceResponse:
        self._seen(request, context)
        grant = accounts_pb2.GrantRecord(grant_id="g-1", wallet="default", available_micros=1, amount_micros=9)
        wallet = accounts_pb2.WalletBalance(wallet="default", available_micros=12_345_678, grants=[grant])
        return accounts_pb2.GetBalanceResponse(account_id=request.account_id, wallets=[wallet])

    def ListHolds(self, request: Any, context: Any) -> accounts_pb2.ListHoldsResponse:
        self._seen(request, context)
        begin = int(request.page_token or 0)
        end = min(begin + request.page_size, HOLDS)
        holds = [types_pb2.Hold(hold_id=f"hold-{number}") for number in range(begin, end)]
        return accounts_pb2.ListHoldsResponse(holds=holds, next_page_token=str(end) if end < HOLDS else "")

    def ListTransactions(self, request: Any, context: Any) -> accounts_pb2.ListTransactionsResponse:
        self._seen(request, context)
        record = accounts_pb2.Transaction(
            transaction_id="C1", kind=accounts_pb2.Transaction.KIND_COMMIT, amount_micros=-1_500_000, item="\x1b[31mx"
        )
        return accounts_pb2.ListTransactionsResponse(transactions=[record])

    def ExplainSettlement(self, request: Any, context: Any) -> accounts_pb2.ExplainSettlementResponse:
        self._seen(request, context)
        return accounts_pb2.ExplainSettlementResponse(steps=["first", "second"])


class Remote:
    """A server that records, and the commands that call it."""

    def __init__(self, given: grpc.ServerCredentials | None = None) -> None:
        self.recorder = Recorder()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        accounts_pb2_grpc.add_AccountsServicer_to_server(self.recorder, self.server)
        if given is None:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self.server.add_secure_port("localhost:0", given)
        self.server.start()

    def run(self, command: click.Command, *arguments: str, code: int = 0) -> click.testing.Result:
        """`code` is the exit status that the command must have."""
        options = ("--server", f"localhost:{self.port}", "--key", KEY)
        done = click.testing.CliRunner().invoke(command, [*arguments, *options])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    @property
    def request(self) -> Any:
        return self.recorder.requests[-1]


@pytest.fixture(name="remote")
def _remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:  # pyright: ignore[reportUnusedFunction]
    for name in ("METERD_SERVER", "METERD_KEY", "METERD_CA"):
        monkeypatch.delenv(name, raising=False)
    remote = Remote()
    yield remote
    remote.server.stop(None).wait()


@pytest.mark.parametrize(
    ("text", "amount_micros"),
    [
        ("12.5", 12_500_000),
        ("1", 1_000_000),
        ("0.000001", 1),
        ("0.1000000000", 100_000),
        ("9007199254.740991", 2**53 - 1),
        # Through a float, this one would be off.
        ("4503599627.370497", 4_503_599_627_370_497),
    ],
)
def test_amounts_are_sent_exactly(remote: Remote, text: str, amount_micros: int) -> None:
    remote.run(commands.grant, "alice", text)
    assert remote.request.amount_micros == amount_micros
    assert console.credits_text(amount_micros) == text.rstrip("0").rstrip(".") if "." in text else text


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", "NaN", "Infinity", "1,5", "1_000", ".5", "1.", "0.0000001", "9007199254.740992", "١"],
)
def test_other_amounts_are_usage_and_not_sent(remote: Remote, text: str) -> None:
    remote.run(commands.grant, "--wallet", "default", "alice", "--", text, code=2)
    assert remote.recorder.requests == []


def test_a_grant_carries_all_its_options_and_the_key(remote: Remote) -> None:
    remote.run(
        commands.grant,
        *("alice", "2", "--wallet", "gifts", "--category", "gift", "--priority", "-5", "--source", "order-1"),
        *("--effective", "2026-01-01", "--expires", "2026-12-31T23:00:00+01:00", "--idempotency-key", "once"),
    )
    sent = remote.request
    assert (sent.account_id, sent.wallet, sent.category) == ("alice", "gifts", types_pb2.GRANT_CATEGORY_GIFT)
    assert (sent.priority, sent.source_id, sent.idempotency_key) == (-5, "order-1", "once")
    assert sent.effective_at.ToJsonString() == "2026-01-01T00:00:00Z"
    assert sent.expires_at.ToJsonString() == "2026-12-31T22:00:00Z"
    assert remote.recorder.metadata[-1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("metric", "text", "amount"), [("credits", "12.5", 12_500_000), ("cost", "0.000001", 1), ("tokens", "12", 12)]
)
def test_a_limit_is_sent_in_the_unit_of_its_metric(remote: Remote, metric: str, text: str, amount: int) -> None:
    options = ("--subject", "user", "--value", "bob", "--window", "rolling-day", "--observe")
    remote.run(commands.account, "set-limit", "org", "day", text, "--metric", metric, *options)
    sent = remote.request.limit
    assert (sent.limit_id, sent.subject, sent.value) == ("day", types_pb2.LIMIT_SUBJECT_USER, "bob")
    assert (sent.amount, sent.window, sent.observe) == (amount, types_pb2.LIMIT_WINDOW_ROLLING_DAY, True)


@pytest.mark.parametrize(("metric", "text"), [("tokens", "1.5"), ("actions", "-1"), ("credits", "x")])
def test_a_limit_of_another_amount_is_usage_and_not_sent(remote: Remote, metric: str, text: str) -> None:
    window = ("--window", "day")
    remote.run(commands.account, "set-limit", "--metric", metric, *window, "org", "day", "--", text, code=2)
    assert remote.recorder.requests == []


def test_limits_are_shown_with_who_used_most(remote: Remote) -> None:
    shown = remote.run(commands.account, "limits", "org").output
    for text in (
        "day",
        "user",
        "rolling-day",
        "enforce",
        "100.5",
        "alice",
        "2.5",
        "1,234",
        "2023-11-14T22:13:20Z",
        "bob",
    ):
        assert text in shown
    assert "was not there" in remote.run(commands.account, "delete-limit", "org", "day").output


def test_two_grants_without_a_key_of_their_own_are_two(remote: Remote) -> None:
    remote.run(commands.grant, "alice", "1")
    remote.run(commands.grant, "alice", "1")
    first, second = remote.recorder.requests
    assert first.idempotency_key != second.idempotency_key


def test_a_grant_that_may_have_happened_tells_the_key_to_repeat_it_with(remote: Remote) -> None:
    remote.recorder.refusal = (grpc.StatusCode.UNAVAILABLE, "fenced")
    done = remote.run(commands.grant, "alice", "1", code=3)
    assert "UNAVAILABLE: fenced" in done.stderr
    assert f"--idempotency-key {remote.request.idempotency_key}" in done.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 1),
        (grpc.StatusCode.PERMISSION_DENIED, 1),
        (grpc.StatusCode.NOT_FOUND, 1),
        (grpc.StatusCode.ALREADY_EXISTS, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.OUT_OF_RANGE, 2),
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 3),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_status(remote: Remote, status: grpc.StatusCode, code: int) -> None:
    remote.recorder.refusal = (status, "account_id: because")
    done = remote.run(commands.balance, "alice", code=code)
    assert done.stderr == f"Error: {status.name}: account_id: because\n"
    assert KEY not in done.output


def test_a_server_that_is_away_is_status_3(remote: Remote) -> None:
    remote.server.stop(None).wait()
    told = remote.run(commands.balance, "alice", code=3).stderr
    assert told.startswith("Error: UNAVAILABLE: no server speaks gRPC there: ")
    assert f":{remote.port}: " in told and "--server or METERD_SERVER" in told


def test_without_a_key_it_is_said_where_one_comes_from(remote: Remote) -> None:
    done = click.testing.CliRunner().invoke(commands.balance, ["alice", "--server", f"localhost:{remote.port}"])
    assert done.exit_code == 2
    assert "Error: name an API key: --key or METERD_KEY; `meterd keys create` makes one\n" in done.stderr


@pytest.mark.parametrize("arguments", [("--key", "mk_short"), ("--server", "http://localhost:8262")])
def test_what_is_no_key_and_what_is_no_address_is_usage_and_not_sent(
    remote: Remote, arguments: tuple[str, str]
) -> None:
    options = {"--server": f"localhost:{remote.port}", "--key": KEY} | dict([arguments])
    given = [part for option in options.items() for part in option]
    assert click.testing.CliRunner().invoke(commands.balance, ["alice", *given]).exit_code == 2
    assert remote.recorder.requests == []


def test_a_key_that_metadata_cannot_carry_is_usage_and_not_shown(remote: Remote) -> None:
    done = click.testing.CliRunner().invoke(
        commands.balance, ["alice", "--server", "localhost:1", "--key", "mk_geheim\n"]
    )
    assert done.exit_code == 2
    assert "geheim" not in done.output


def test_an_account_is_created_with_its_settings(remote: Remote) -> None:
    create = ("create", "alice", "--overage", "overdraft", "--overdraft-limit", "2.5", "--strict-expiry")
    assert remote.run(commands.account, *create).stdout == "Account alice is created.\n"
    assert remote.request.overage_policy == types_pb2.OVERAGE_POLICY_OVERDRAFT
    assert (remote.request.overdraft_limit_micros, remote.request.strict_expiry) == (2_500_000, True)


def test_a_balance_is_shown_in_credits_and_in_json_as_the_contract_has_it(remote: Remote) -> None:
    assert "12.345678" in remote.run(commands.balance, "alice").stdout
    found = json.loads(remote.run(commands.balance, "alice", "--json").stdout)
    assert found["wallets"][0]["available_micros"] == "12345678"
    assert found["wallets"][0]["held_micros"] == "0"


def test_show_prints_settings_and_balance(remote: Remote) -> None:
    shown = remote.run(commands.account, "show", "alice").stdout
    assert "overdraft" in shown
    assert "12.345678" in shown
    found = json.loads(remote.run(commands.account, "show", "alice", "--json").stdout)
    assert (found["account"]["account_id"], found["balance"]["account_id"]) == ("alice", "alice")


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (1_000, [1_000]), (1_001, [1_000, 1]), (9_000, [1_000] * 3)])
def test_pages_are_read_up_to_the_limit(remote: Remote, limit: int, sizes: list[int]) -> None:
    listed = json.loads(remote.run(commands.account, "list-holds", "alice", "--limit", str(limit), "--json").stdout)
    assert [hold["hold_id"] for hold in listed] == [f"hold-{number}" for number in range(min(limit, HOLDS))]
    assert [request.page_size for request in remote.recorder.requests] == sizes


def test_transactions_are_signed_and_cannot_steer_the_terminal(remote: Remote) -> None:
    shown = remote.run(commands.account, "list-transactions", "alice").stdout
    assert "-1.5" in shown
    assert "\x1b" not in shown


def test_a_charge_is_explained_step_by_step(remote: Remote) -> None:
    assert remote.run(commands.account, "explain", "alice", "h-1").stdout == "first\nsecond\n"
    assert (remote.request.account_id, remote.request.id) == ("alice", "h-1")


def test_a_repeated_revocation_uses_the_same_key(remote: Remote) -> None:
    shown = remote.run(commands.account, "revoke-grant", "g-1", "--reason", "chargeback").stdout
    assert shown == "Revoked 1.5 credits. It takes effect as soon as Redis is back.\n"
    remote.run(commands.account, "revoke-grant", "g-1", "--reason", "chargeback")
    first, second = remote.recorder.requests
    assert first == second
    assert first.idempotency_key


def test_with_a_ca_the_call_goes_over_tls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    remote = Remote(grpc.ssl_server_credentials([pair]))
    ca_path = tmp_path / "ca.pem"
    ca_path.write_bytes(authority.cert_pem.bytes())
    try:
        remote.run(commands.balance, "alice", "--ca", str(ca_path))
        remote.run(commands.balance, "alice", code=3)
        monkeypatch.setenv("METERD_CA", str(ca_path))
        remote.run(commands.balance, "alice")
    finally:
        remote.server.stop(None).wait()
