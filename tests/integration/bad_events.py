"""As bad_input, for the service Events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meterd_client.v1 import events_pb2
from tests.integration import bad_input, serving

BAD, MISSING, RANGE = bad_input.BAD, bad_input.MISSING, bad_input.RANGE
URL = "https://example.com/hook"

GOOD: dict[str, Callable[[bad_input.World], dict[str, Any]]] = {
    "CreateWebhook": lambda _: {"idempotency_key": serving.new_id(), "url": URL},
    "ListWebhooks": lambda _: {},
    "RotateWebhookSecret": lambda w: {"webhook_id": w.webhook_id},
    "ListEvents": lambda w: {"account_id": w.account_id},
    "ReplayEvents": lambda w: {"webhook_id": w.webhook_id},
    "DeleteWebhook": lambda w: {"webhook_id": w.webhook_id},
    "SetLowBalance": lambda w: {"account_id": w.account_id, "low_balance_micros": 5},
}
REQUESTS = {name: getattr(events_pb2, f"{name}Request") for name in GOOD}
# An empty message asks for all there is.
EMPTY = frozenset(("ListWebhooks", "ListEvents"))


async def add_webhooks(world: bad_input.World, other: serving.Client) -> None:
    """Gives the world a webhook, and the other tenant one."""
    request = events_pb2.CreateWebhookRequest(idempotency_key=f"w-{world.account_id}", url=URL)
    world.webhook_id = (await world.client.call("CreateWebhook", request)).webhook.webhook_id
    world.foreign_webhook = (await other.call("CreateWebhook", request)).webhook.webhook_id


def _id_cases(method: str) -> list[bad_input.Case]:
    found = [
        (f"webhook_id {value[:20]!r}", BAD, "webhook_id: ", {"webhook_id": value})
        for value in ("", "x", "🦊", "{01a1fda6-5d2f-7c3e-9b57-5c7f0a3e2d11}", "a" * 1_024)
    ]
    return bad_input.cases(
        method,
        *found,
        ("webhook_id of nobody", MISSING, "webhook_id: ", lambda _: {"webhook_id": serving.new_id()}),
        ("webhook_id of another tenant", MISSING, "webhook_id: ", lambda w: {"webhook_id": w.foreign_webhook}),
    )


CASES = [
    *bad_input.text_cases("CreateWebhook", "idempotency_key", 128, required=True),
    *bad_input.cases(
        "CreateWebhook",
        *(
            (f"url {url[:30]!r}", BAD, "url: ", {"url": url})
            for url in (
                "",
                "example.com",
                "http://example.com/",
                "https://127.0.0.1/",
                "https://[::1]/",
                "https://169.254.169.254/latest",
                "https://a@example.com/",
                "https://example.com/" + "a" * 2_048,
                "https://🦊.com/",
                "https://example.com/\r\nx: y",
            )
        ),
        ("a type that there is not", BAD, "types: ", {"types": ["balance.low", "balance.high"]}),
    ),
    *(case for method in ("RotateWebhookSecret", "ReplayEvents", "DeleteWebhook") for case in _id_cases(method)),
    *bad_input.cases(
        "ReplayEvents",
        ("event_ids", BAD, "event_ids: ", {"event_ids": ["x"]}),
        ("too many event_ids", BAD, "event_ids: ", lambda _: {"event_ids": [serving.new_id()] * 1_001}),
        ("page_token", BAD, "page_token: ", {"page_token": "x"}),
        ("since before 1970", BAD, "since: ", {"since": bad_input.Timestamp(seconds=-1)}),
        ("until", BAD, "until: ", {"until": bad_input.Timestamp(seconds=2**62)}),
    ),
    *bad_input.cases(
        "ListEvents",
        *((f"page_size {n}", BAD, "page_size: ", {"page_size": n}) for n in (-1, 1_001)),
        ("page_token", BAD, "page_token: ", {"page_token": "AAAA"}),
        ("types", BAD, "types: ", {"types": [""]}),
        ("account_id", BAD, "account_id: ", {"account_id": "a\0"}),
        ("account_id of nobody", MISSING, "account_id: ", lambda _: {"account_id": serving.new_id()}),
        ("account_id of another tenant", MISSING, "account_id: ", {"account_id": "theirs"}),
    ),
    *bad_input.cases(
        "SetLowBalance",
        ("no amount", BAD, "low_balance_micros: ", {"low_balance_micros": None}),
        ("both", BAD, "low_balance_micros: ", {"clear": True}),
        ("negative", RANGE, "low_balance_micros: ", {"low_balance_micros": -1}),
        ("too large", RANGE, "low_balance_micros: ", {"low_balance_micros": 2**53}),
        ("account_id", BAD, "account_id: ", {"account_id": "a\n"}),
        ("account_id of another tenant", MISSING, "account_id: ", {"account_id": "theirs"}),
    ),
]
bad_input.GOOD.update(GOOD)
bad_input.REQUESTS.update(REQUESTS)
