"""Stripe's API by Stripe's library, whose errors are mapped here, once. `outgoing` says what each call answers and raises.

Importing this module imports `stripe`, which takes up to a second: only `outgoing.opened` does.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import stripe

from meterd.billing import outgoing
from meterd.core import errors

_log = logging.getLogger(__name__)

# The most that Stripe gives at once.
PAGE_SIZE = 100
_MESSAGE_CHARS_MAX = 300

Document = dict[str, Any]


class Gateway:
    """See outgoing.Stripe."""

    def __init__(
        self, api_key: str, *, base: str, timeout_s: float, retries_max: int, account: str = "", http: Any = None
    ) -> None:
        """`timeout_s` is for each attempt, `http` the connections of another one."""
        self._api_key, self._base = api_key, base
        self._timeout_s, self._retries_max = timeout_s, retries_max
        self._http: Any = http or stripe.HTTPXClient(timeout=timeout_s)
        self._client: Any = stripe.StripeClient(
            api_key,
            stripe_version=outgoing.API_VERSION,
            stripe_account=account or None,
            base_addresses={"api": base},
            max_network_retries=retries_max,
            http_client=self._http,
        )

    def of(self, account: str) -> Gateway:
        """See outgoing.Stripe.of. Shares the connections of this one."""
        if not account:
            return self
        return Gateway(
            self._api_key,
            base=self._base,
            timeout_s=self._timeout_s,
            retries_max=self._retries_max,
            account=account,
            http=self._http,
        )

    async def post(self, path: str, params: Mapping[str, Any], *, key: str) -> Document:
        """See outgoing.Stripe.post."""
        return await self._call("post", path, params, idempotency_key=key)

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Document:
        """See outgoing.Stripe.get."""
        return await self._call("get", path, params or {})

    async def delete(self, path: str) -> Document:
        """See outgoing.Stripe.delete."""
        return await self._call("delete", path, {})

    async def all(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[Document]:
        """See outgoing.Stripe.all."""
        after: Mapping[str, Any] = {}
        while True:
            page = await self.get(path, {**params, "limit": PAGE_SIZE, **after})
            for one in page["data"]:
                yield one
            if not page["has_more"] or not page["data"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    async def close(self) -> None:
        """See outgoing.Stripe.close."""
        await self._http.close_async()

    async def _call(self, method: str, path: str, params: Mapping[str, Any], **options: str) -> Document:
        try:
            answer = await self._client.raw_request_async(method, f"/v1/{path}", **params, **options)
        except stripe.CardError as exc:
            raise outgoing.CardDeclinedError(_decline_code(exc), _made(exc)) from exc
        except stripe.IdempotencyError as exc:
            raise errors.AlreadyExistsError("idempotency_key: used before with other content") from exc
        except stripe.InvalidRequestError as exc:
            raise outgoing.RefusedError(exc.code or "", _said(exc)) from exc
        except (stripe.AuthenticationError, stripe.PermissionError) as exc:
            # What Stripe says of it shows parts of the key.
            _log.error("Stripe does not take the API key: %s %s", exc.http_status, exc.code)
            raise outgoing.RefusedError(exc.code or "", "the API key is not valid, or may not do this") from exc
        except stripe.RateLimitError as exc:
            raise errors.UnavailableError("Stripe is asked too often; retry with the same id") from exc
        except (stripe.StripeError, OSError, TimeoutError) as exc:
            # A 409 is one too: a call with the same key is being made at this moment.
            _log.warning("Stripe is away: %s %s: %s", method, path.partition("/")[0], type(exc).__name__)
            raise errors.UnavailableError(
                "Stripe cannot be reached or has a fault; the effect is unknown: retry with the same id"
            ) from exc
        return answer.data


def _body(exc: stripe.StripeError) -> Document:
    body: Any = exc.json_body
    return body.get("error") or {} if isinstance(body, dict) else {}


def _decline_code(exc: stripe.CardError) -> str:
    return str(_body(exc).get("decline_code") or exc.code or "card_error")


def _made(exc: stripe.CardError) -> Document:
    return _body(exc).get("payment_intent") or {}


def _said(exc: stripe.InvalidRequestError) -> str:
    text = str(_body(exc).get("message") or "refused")[:_MESSAGE_CHARS_MAX]
    return f"{exc.param}: {text}" if exc.param else text
