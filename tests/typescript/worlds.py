"""What tests of the TypeScript client ask of meterd beside it: where it is, and what became of an account."""

from __future__ import annotations

import dataclasses
import time

from meterd_client.v1 import accounts_pb2
from tests.acceptance import installation


def target(meterd: installation.Installation, wire: str, *, http: str = "", grpc: str = "") -> dict[str, str]:
    """What the agent needs to reach meterd; `http` and `grpc` are addresses of a proxy in between."""
    return {
        "wire": wire,
        "http": f"http://{http or meterd.server.settings['METERD_HTTP_ADDRESS']}",
        "grpc": f"http://{grpc or meterd.server.address}",
        "key": meterd.meter_key,
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """A ledger record that ended a hold, or charged."""

    kind: str
    charged_micros: int


def endings(meterd: installation.Installation, account_id: str) -> list[accounts_pb2.Transaction]:
    """The account's records in Postgres, newest first."""
    with meterd.client() as client:
        found = client.call(
            "ListTransactions", accounts_pb2.ListTransactionsRequest(account_id=account_id, page_size=100)
        )
        return list(found.transactions)


def balance(meterd: installation.Installation, account_id: str) -> tuple[int, int]:
    """Available and held micro-credits."""
    with meterd.client() as client:
        found = client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id))
        (wallet,) = found.wallets
        return wallet.available_micros, wallet.held_micros


def settled(meterd: installation.Installation, account_id: str, timeout_s: float = 30.0) -> int:
    """Waits until no hold of the account is open; available micro-credits then."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        available, held = balance(meterd, account_id)
        if held == 0:
            return available
        assert time.monotonic() < deadline_s, f"{held} micro-credits of {account_id} are still held"
        time.sleep(0.05)
