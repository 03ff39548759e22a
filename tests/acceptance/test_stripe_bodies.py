"""Bodies that are not surely Stripe's, for this process: answered 400, and nothing of them is kept."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance import installation, processes
from tests.acceptance import stripe_world as world

# Of the process under test; Stripe's default, as a number.
TOLERANCE_S = 300


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "bodies") as made:
        yield made


def _event() -> world.Document:
    return world.event("checkout.session.completed", world.session("nobody"))


def _forged(body: bytes) -> str:
    return world.signature(body, secret="whsec_" + "c" * 32)


def _unsigned(_body: bytes) -> str:
    return ""


def _another_body(body: bytes) -> str:
    return world.signature(body + b" ")


def _stale(body: bytes) -> str:
    return world.signature(body, at_s=world.now_s() - TOLERANCE_S - 5)


def _future(body: bytes) -> str:
    return world.signature(body, at_s=world.now_s() + TOLERANCE_S + 5)


def _two_times(body: bytes) -> str:
    # The signature is right for the first time, and the second one is what a careless reader would compare with the clock.
    old_s = world.now_s() - 10_000
    return f"{world.signature(body, at_s=old_s)},t={world.now_s()}"


def _other_scheme(body: bytes) -> str:
    return world.signature(body).replace("v1=", "v0=")


@pytest.mark.parametrize("sign", [_forged, _unsigned, _another_body, _stale, _future, _two_times, _other_scheme])
def test_a_signature_that_does_not_fit_is_refused(shop: world.World, sign: Callable[[bytes], str]) -> None:
    before = shop.inbox()
    body = world.body_of(_event())
    assert shop.post(body, sign(body)).status_code == 400
    assert shop.inbox() == before


@pytest.mark.parametrize(
    "header", ["t=,v1=", "v1=abc", "t=-1,v1=00", "t=1e9,v1=00", "t=99999999999999999999,v1=00", "=", "t", "x" * 9000]
)
def test_a_header_that_is_malformed_is_refused(shop: world.World, header: str) -> None:
    before = shop.inbox()
    assert shop.post(world.body_of(_event()), header).status_code == 400
    assert shop.inbox() == before


def _re_encoded(body: bytes) -> bytes:
    return json.dumps(json.loads(body), separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [_re_encoded, gzip.compress, lambda body: body.decode().encode("utf-16"), lambda body: b"\xef\xbb\xbf" + body],
)
def test_a_body_that_was_encoded_anew_is_refused(shop: world.World, change: Callable[[bytes], bytes]) -> None:
    before = shop.inbox()
    body = world.body_of(_event())
    assert shop.post(change(body), world.signature(body)).status_code == 400
    assert shop.inbox() == before


def _with(**fields: object) -> bytes:
    return world.body_of(_event() | fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"object": "event"',
        b'{"object": NaN}',
        b'{"object": "event", "object": "event"}',
        _with(object="v2.core.event"),
        _with(id=""),
        _with(id="evt_1\n"),
        _with(id=17),
        _with(type=None),
        _with(type="a" * 200),
        _with(created="1"),
        _with(created=-1),
        _with(created=True),
        _with(created=10**18),
        _with(livemode="false"),
        _with(data=None),
        _with(data={"object": []}),
        _with(account={"id": "acct_1"}),
        _with(request="\ud800"),
        b"[" * 10_000 + b"]" * 10_000,
        b'{"object": "event", "data": ' + b'{"a": ' * 200 + b"1" + b"}" * 200 + b"}",
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(shop: world.World, body: bytes) -> None:
    before = shop.inbox()
    assert shop.post(body, world.signature(body)).status_code == 400
    assert shop.inbox() == before


def test_a_body_that_is_no_text_is_refused(shop: world.World) -> None:
    body = world.body_of(_event())
    assert shop.post(body[:-1] + b"\xff}", world.signature(body)).status_code == 400


def test_an_event_of_live_mode_does_not_reach_a_tenant_of_test_mode(shop: world.World) -> None:
    before = shop.inbox()
    body = _with(livemode=True)
    assert shop.post(body, world.signature(body)).status_code == 400
    assert shop.inbox() == before


def test_an_event_of_another_account_is_refused(shop: world.World) -> None:
    before = shop.inbox()
    body = _with(account="acct_other")
    assert shop.post(body, world.signature(body)).status_code == 400
    assert shop.inbox() == before


def test_a_body_that_is_too_long_is_refused_and_not_read_to_its_end(shop: world.World) -> None:
    before = shop.inbox()
    body = _with(padding="x" * (1024 * 1024))
    assert shop.post(body, world.signature(body)).status_code == 400
    with socket.create_connection((shop.process.address.partition(":")[0], shop.process.port), timeout=10) as wire:
        # It says nothing of its length, and never ends.
        wire.sendall(b"POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        answer = b""
        for _ in range(64):
            try:
                wire.sendall(chunk)
            except OSError:
                break
        while part := wire.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer:
                break
    assert answer.startswith(b"HTTP/1.1 400")
    assert shop.inbox() == before


def test_the_old_secret_signs_while_it_is_rolled(shop: world.World) -> None:
    account = shop.account(plan_id="endless")
    paid = world.event("checkout.session.completed", world.session(account))
    assert shop.send(paid, secret=world.OLD_SECRET) == 200
    body = world.body_of(paid)
    both = f"{world.signature(body, secret='whsec_gone')},{world.signature(body).partition(',')[2]}"
    assert shop.post(body, both).status_code == 200
    assert shop.credits(account) == {"default": 2500}


def test_other_paths_and_methods_are_not_there(shop: world.World) -> None:
    base = f"http://{shop.process.address}"
    assert shop.http.get(f"{base}/webhooks/stripe").status_code == 405
    assert shop.http.post(f"{base}/").status_code == 404
    assert shop.http.get(f"{base}/healthz").text == "ok\n"
    assert shop.http.get(f"{base}/readyz").text == "ok\n"


def test_metrics_count_what_was_refused_and_show_no_secret(shop: world.World) -> None:
    body = world.body_of(_event())
    shop.post(body, _forged(body))
    text = shop.http.get(f"http://{shop.process.address}/metrics").text
    assert 'meterd_stripe_refused_total{reason="signature"}' in text
    assert "meterd_stripe_pending 0.0" in text
    log = shop.process.log_path.read_text()
    assert "refused a body" in log
    assert world.SECRET not in log + text
    assert world.OLD_SECRET not in log + text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stripe_tolerance_s": "0"}, "METERD_STRIPE_TOLERANCE_S: must be at least 1"),
        ({"stripe_tolerance_s": "301"}, "METERD_STRIPE_TOLERANCE_S: must be from 1 to 300"),
        ({"stripe_webhook_secrets": ""}, "METERD_STRIPE_WEBHOOK_SECRETS: must be 1 to 8 secrets"),
        ({"stripe_tenant": ""}, "METERD_STRIPE_TENANT: is missing"),
        ({"stripe_tenant": "nobody"}, "METERD_STRIPE_TENANT: there is no tenant nobody"),
        ({"stripe_livemode": "true"}, "METERD_STRIPE_LIVEMODE: tenant bodies is of Stripe's test mode, for ever"),
        ({"stripe_api_key": "sk_live_x"}, "METERD_STRIPE_API_KEY: is a key of live mode"),
        ({"stripe_account": "acct_1", "stripe_livemode": "true"}, "tenant bodies is of Stripe's test mode"),
        ({"stripe_listen": "here"}, "METERD_STRIPE_LISTEN: must be host:port"),
    ],
)
def test_settings_that_are_not_safe_keep_it_from_starting(
    shop: world.World, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(processes.ProcessError) as caught:
        world.started(shop.made, shop.product.tenant_id, settings)
    assert said in str(caught.value)
    assert world.SECRET not in str(caught.value)
