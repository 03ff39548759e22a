"""The listener of HTTP calls itself: web pages' origins, probes, TLS, limits of heads and bodies, and an orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import ssl
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
import trustme

from meterd.core import errors
from meterd.server import app, connect, web
from tests.integration import serving

BALANCE = "/meterd.v1.Accounts/GetBalance"
PAGE = "https://app.example.com"


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@contextlib.asynccontextmanager
async def opened(scene: serving.Scene, **changes: object) -> AsyncGenerator[tuple[serving.Server, httpx.AsyncClient]]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", **changes)
    headers = {"authorization": f"Bearer {scene.key}"}
    async with (
        serving.running(settings) as server,
        httpx.AsyncClient(base_url=server.http_url, headers=headers, timeout=serving.CALL_TIMEOUT_S) as http,
    ):
        yield server, http


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("", PAGE, None),
        (PAGE, PAGE, PAGE),
        (f"http://localhost:5173, {PAGE}", PAGE, PAGE),
        (PAGE, "https://evil.example.com", None),
        (PAGE, PAGE + ".evil.org", None),
        ("*", "https://any.example.com", "*"),
    ],
)
async def test_pages_of_the_origins_that_are_set_may_call(
    scene: serving.Scene, setting: str, origin: str, allowed: str | None
) -> None:
    async with opened(scene, http_cors_origins=setting) as (server, http):
        await server.client(scene.key).fund("acct", 5)
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = await http.options(BALANCE, headers={"origin": origin} | asks)
        assert preflight.status_code == 204
        assert preflight.headers.get("access-control-allow-origin") == allowed
        assert preflight.headers["access-control-allow-methods"] == "POST"
        permitted = preflight.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "connect-protocol-version", "connect-timeout-ms", "x-grpc-web"} <= set(
            permitted
        )
        assert "access-control-allow-credentials" not in preflight.headers
        for body in ({"accountId": "acct"}, {"accountId": "nobody"}):
            answer = await http.post(BALANCE, json=body, headers={"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
            if allowed is not None:
                exposed = answer.headers["access-control-expose-headers"].split(", ")
                assert {"grpc-status", "grpc-message", "connect-content-encoding"} <= set(exposed)
            assert ("vary" in answer.headers) == (setting not in ("", "*"))


@pytest.mark.parametrize("setting", ["app.example.com", "https://", "https://a.example.com/path", "ftp://a", "null"])
async def test_what_is_no_origin_is_refused_at_the_start(scene: serving.Scene, setting: str) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", http_cors_origins=setting)
    with pytest.raises(errors.ConfigError, match=r"^METERD_HTTP_CORS_ORIGINS: "):
        await app.App(settings).serve()


async def test_probes_are_there_too_and_metrics_for_admins(scene: serving.Scene) -> None:
    reader = await serving.new_key(scene.dsn, "acme", "read")
    async with opened(scene) as (_, http):
        for path in ("/healthz", "/readyz"):
            answer = await http.get(path, headers={"authorization": ""})
            assert (answer.status_code, answer.text) == (200, "ok\n")
        assert (await http.head("/healthz")).status_code == 200
        assert "meterd_calls_total" in (await http.get("/metrics")).text
        statuses = [
            (await http.get("/metrics", headers={"authorization": header})).status_code
            for header in ("", "Bearer mk_" + "A" * 43, f"Bearer {reader.key}")
        ]
        assert statuses == [401, 401, 403]


async def test_a_server_that_is_not_ready_says_so(scene: serving.Scene) -> None:
    settings = serving.settings_of(
        scene.dsn, "redis://127.0.0.1:1/0", http_address="127.0.0.1:0", lame_duck_ms=0, drain_ms=0
    )
    async with serving.running(settings, ready=False) as server, httpx.AsyncClient(base_url=server.http_url) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "Redis is away\n")
        assert (await http.get("/healthz")).status_code == 200


async def exchanged(server: serving.Server, data: bytes) -> bytes:
    """What comes back until the server closes."""
    host, _, port = server.app.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(serving.CALL_TIMEOUT_S):
        found = await reader.read()
    writer.close()
    return found


async def test_heads_are_limited_in_size_and_time(scene: serving.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(scene) as (server, http):
        answer = await http.get("/healthz", headers={"x-large": "a" * 15_000})
        assert answer.status_code == 200
        many = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1_000) for number in range(20))
        for head in (b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\nhost: a\r\n" + many):
            assert (await exchanged(server, head + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        monkeypatch.setattr(web, "HEAD_TIMEOUT_S", 0.2)
        for head in (b"", b"POST / HT", b"POST / HTTP/1.1\r\nhost: a\r\n"):
            assert await exchanged(server, head) == b""
        whole = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
        assert (await exchanged(server, whole + b"GET /hea")).endswith(b"\r\n\r\nok\n")


async def test_a_body_that_does_not_come_is_not_waited_for(
    scene: serving.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "BODY_TIMEOUT_S", 0.2)
    async with opened(scene) as (server, _):
        head = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n" % BALANCE.encode()
        found = await exchanged(server, head + b"connection: close\r\ncontent-length: 10\r\n\r\n{")
        assert found.startswith(b"HTTP/1.1 504 ")
        assert found.endswith(b'{"code":"deadline_exceeded","message":"the request did not arrive in time"}')
        assert server.app.gate is not None and server.app.gate.count == 0


async def test_nonsense_is_refused_and_the_server_serves_on(scene: serving.Scene) -> None:
    async with opened(scene) as (server, http):
        for data in (
            b"\x16\x03\x01\x02\x00\x01",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            os.urandom(64),
        ):
            await asyncio.wait_for(exchanged(server, data + b"\r\n\r\n"), serving.CALL_TIMEOUT_S)
        assert (await http.get("/healthz")).status_code == 200


async def test_one_connection_serves_calls_one_after_the_other_and_pipelined(scene: serving.Scene) -> None:
    async with opened(scene) as (server, _):
        await server.client(scene.key).fund("acct", 5)
        body = b'{"accountId":"acct"}'
        head = (
            f"POST {BALANCE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {scene.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        calls = (head.encode() + b"\r\n" + body) * 3 + head.encode() + b"connection: close\r\n\r\n" + body
        found = await exchanged(server, calls)
        assert found.count(b"HTTP/1.1 200 OK") == 4
        assert found.count(b'"wallets":[{"wallet":"default","availableMicros":"5"') == 4


async def is_in_work(server: serving.Server) -> bool:
    return server.app.gate is not None and server.app.gate.count == 1


async def test_a_stop_lets_calls_in_work_end(scene: serving.Scene) -> None:
    async with opened(scene) as (server, http):
        await server.client(scene.key).fund("acct", 5)
        async with serving.contents(scene.dsn, scene.redis_url) as contents:
            async with contents.paused():
                reserve = {"holdId": serving.new_id(), "accountId": "acct", "credits": {"amountMicros": 1}}
                call = asyncio.create_task(http.post("/meterd.v1.Metering/Reserve", json=reserve))
                await serving.eventually(lambda: is_in_work(server))
                server.app.stop()
                done, _ = await asyncio.wait((call, server.task), timeout=0.3)
                assert not done
            assert (await call).json()["hold"]["amountMicros"] == "1"
        assert await server.task == 0
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(base_url=server.http_url) as other:
                await other.get("/healthz")


async def config_error(scene: serving.Scene, **changes: object) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        await app.App(serving.settings_of(scene.dsn, scene.redis_url, **changes)).serve()
    return str(caught.value)


async def test_an_address_that_cannot_be_is_named(scene: serving.Scene) -> None:
    async with opened(scene) as (server, _):
        taken = await config_error(scene, http_address=server.app.http_address)
        assert taken.startswith(f"METERD_HTTP_ADDRESS: cannot listen on {server.app.http_address}: ")
    for address in ("127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "localhost:", "127.0.0.1:-1"):
        found = await config_error(scene, http_address=address)
        assert f"{address}" in found


async def test_plaintext_stays_on_this_machine(scene: serving.Scene) -> None:
    found = await config_error(scene, http_address="0.0.0.0:0")
    assert found.startswith("0.0.0.0:0 is reachable from other machines")
    async with opened(scene, listen="127.0.0.1:0", allow_plaintext=True) as (_, http):
        assert (await http.get("/healthz")).status_code == 200


def written(ca: trustme.CA, directory: pathlib.Path, name: str) -> None:
    made = ca.issue_cert("localhost", "127.0.0.1", common_name=name)
    made.private_key_pem.write_to_path(directory / "tls.key")
    (directory / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))


async def common_name(port: int, context: ssl.SSLContext) -> str:
    """Of the certificate that the server shows now."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    subject = dict(pair for (pair,) in writer.get_extra_info("peercert")["subject"])
    writer.close()
    return subject["commonName"]


async def test_tls_with_grpcs_certificates_which_can_be_replaced(scene: serving.Scene, tmp_path: pathlib.Path) -> None:
    ca = trustme.CA()
    written(ca, tmp_path, "first")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    settings = serving.settings_of(
        scene.dsn,
        scene.redis_url,
        http_address="127.0.0.1:0",
        tls_cert_file=str(tmp_path / "tls.crt"),
        tls_key_file=str(tmp_path / "tls.key"),
    )
    async with serving.running(settings, ready=False) as server:
        port = int(server.app.http_address.rpartition(":")[2])
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context) as http:
            answer = await http.post(BALANCE, json={}, headers={"authorization": f"Bearer {scene.key}"})
            assert answer.json()["code"] == "invalid_argument"
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                await http.get("/healthz")
        assert await common_name(port, context) == "first"
        written(ca, tmp_path, "second")
        assert await common_name(port, context) == "second"
        (tmp_path / "tls.key").write_bytes(b"broken")
        assert await common_name(port, context) == "second"


async def test_mutual_tls_asks_for_a_certificate_here_too(scene: serving.Scene, tmp_path: pathlib.Path) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    written(ca, tmp_path, "server")
    clients.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = serving.settings_of(
        scene.dsn,
        scene.redis_url,
        http_address="127.0.0.1:0",
        tls_cert_file=str(tmp_path / "tls.crt"),
        tls_key_file=str(tmp_path / "tls.key"),
        tls_client_ca_file=str(tmp_path / "ca.pem"),
    )
    async with serving.running(settings, ready=False) as server:
        url = f"https://{server.app.http_address}"
        found: list[str] = []
        for issuer in (None, trustme.CA(), clients):
            context = ssl.create_default_context()
            ca.configure_trust(context)
            if issuer is not None:
                issuer.issue_cert("backend").configure_cert(context)
            try:
                async with httpx.AsyncClient(base_url=url, verify=context) as http:
                    found.append((await http.get("/healthz")).text)
            except httpx.HTTPError:
                found.append("refused")
        assert found == ["refused", "refused", "ok\n"]
