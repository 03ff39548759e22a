"""A whole function under a hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from meterd_client import hold, meter, requests, sync

P = ParamSpec("P")
T = TypeVar("T")
Account = str | Callable[..., str]


def metered(
    by: meter.Meter, account: Account, **options: Unpack[requests.HoldOptions]
) -> Callable[[Callable[Concatenate[hold.Hold, P], Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Runs an async function inside `by.hold(account, **options)`, with the hold as its first argument.

    `account` is its name, or a function that is called with the function's own arguments and answers it. How the function ends decides how
    the hold does; see Hold. Errors are those of `Meter.hold`.
    """

    def decorate(run: Callable[Concatenate[hold.Hold, P], Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        if not inspect.iscoroutinefunction(run):
            raise TypeError(f"{run!r} is no async function: use sync_metered, or hold() inside a generator")

        @functools.wraps(run)
        async def metered_run(*args: P.args, **kwargs: P.kwargs) -> T:
            async with by.hold(account if isinstance(account, str) else account(*args, **kwargs), **options) as held:
                return await run(held, *args, **kwargs)

        return metered_run

    return decorate


def sync_metered(
    by: sync.SyncMeter, account: Account, **options: Unpack[requests.HoldOptions]
) -> Callable[[Callable[Concatenate[sync.SyncHold, P], T]], Callable[P, T]]:
    """As metered, for a function that is not async."""

    def decorate(run: Callable[Concatenate[sync.SyncHold, P], T]) -> Callable[P, T]:
        if inspect.iscoroutinefunction(run) or inspect.isgeneratorfunction(run):
            raise TypeError(f"{run!r} ends when it is awaited or read: use metered, or hold() inside it")

        @functools.wraps(run)
        def metered_run(*args: P.args, **kwargs: P.kwargs) -> T:
            with by.hold(account if isinstance(account, str) else account(*args, **kwargs), **options) as held:
                return run(held, *args, **kwargs)

        return metered_run

    return decorate
