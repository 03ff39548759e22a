"""Whether a Redis or Valkey may hold money, as it is set up."""

from __future__ import annotations

import time
from collections.abc import Mapping

from meterd.core import errors, findings
from meterd.redis import keys, runner

# Scripts declare what they may do with `#!lua flags=…`.
VERSION_MIN = (7, 0)
# Beyond it too little is left for a burst of holds while Postgres is away.
MEMORY_USED_MAX = 0.85
# Each call costs one round trip; beyond this Redis is in another region, or overloaded.
ROUND_TRIP_MAX_MS = 5.0
ROUND_TRIPS = 9
# A key that nobody has, within the pattern that an ACL must allow.
_KEY = f"{keys.tag(0)}:doctor"
# Each command that meterd or its scripts use, in a form that changes nothing, whatever the answer.
_HARMLESS: tuple[tuple[str, ...], ...] = (
    ("GET", _KEY),
    ("MGET", _KEY),
    ("SET", _KEY, "", "XX"),
    ("EXISTS", _KEY),
    ("UNLINK", _KEY),
    ("HMGET", _KEY, "c"),
    ("HGETALL", _KEY),
    # A field without a value is refused, but only after the ACL has let it pass.
    ("HSET", _KEY, "field", "value", "field"),
    ("ZADD", _KEY, "XX", "0", "member"),
    ("ZREM", _KEY, "member"),
    ("ZCARD", _KEY),
    ("ZRANGE", _KEY, "0", "0"),
    ("ZSCAN", _KEY, "0"),
    ("XADD", _KEY, "NOMKSTREAM", "*", "field", "value"),
    ("XLEN", _KEY),
    ("XRANGE", _KEY, "-", "+", "COUNT", "1"),
    ("XTRIM", _KEY, "MAXLEN", "0"),
    ("XINFO", "STREAM", _KEY),
    ("TIME",),
    ("SCAN", "0", "COUNT", "1"),
    ("EVALSHA", "0" * 40, "1", _KEY),
    # Does not compile, so that nothing is kept.
    ("SCRIPT", "LOAD", "#!lua\nreturn ="),
)


async def check_redis(run: runner.Runner) -> list[findings.Finding]:
    """All that was looked at, the good included; reads only. UnavailableError if Redis does not answer."""
    info, info_fault = await _info(run)
    if info_fault:
        why = "whether this Redis keeps what it acknowledges is unknown"
        blind = _finding("INFO", f"cannot see: {info_fault}", findings.Level.WARN, why, "allow +info +config|get")
        return [blind, await _permissions(run), await _round_trip(run), await _clock(run)]
    config, config_fault = await _config(run)
    found = [_version(info), _mode(info), _role(info)]
    if info.get("role") == "master" and int(info.get("connected_slaves", "0")):
        found.append(_replicas(config, config_fault))
    found += [_eviction(info), _memory(info)]
    found += _durability(info, config, config_fault)
    found += [await _permissions(run), await _round_trip(run), await _clock(run)]
    return found


def _finding(
    subject: str, seen: str, level: findings.Level = findings.Level.OK, why: str = "", change: str = ""
) -> findings.Finding:
    return findings.Finding(store="redis", subject=subject, level=level, seen=seen, why=why, change=change)


async def _info(run: runner.Runner) -> tuple[dict[str, str], str]:
    """What INFO says, or nothing and why it cannot be seen."""
    try:
        raw: bytes = await run.command(("INFO",))
    except runner.RedisRefusedError as exc:
        return {}, str(exc)
    lines = (line.partition(":") for line in raw.decode(errors="replace").splitlines())
    return {name: value for name, separator, value in lines if separator}, ""


async def _config(run: runner.Runner) -> tuple[dict[str, str], str]:
    """The settings that INFO does not tell, or none and why they cannot be seen."""
    settings = dict[str, str]()
    try:
        for pattern in ("appendfsync", "no-appendfsync-on-rewrite", "min-replicas-*"):
            pairs: list[bytes] = await run.command(("CONFIG", "GET", pattern))
            settings |= {name.decode(): value.decode() for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
    except runner.RedisRefusedError as exc:
        return {}, str(exc)
    return settings, ""


def _version(info: Mapping[str, str]) -> findings.Finding:
    # Valkey says which Redis it stands in for.
    version = info.get("redis_version", "0")
    valkey = info.get("valkey_version")
    seen = f"Valkey {valkey}" if valkey else f"Redis {version}"
    if tuple(int(part) for part in version.split(".")[:2]) >= VERSION_MIN:
        return _finding("version", seen)
    why = "before 7.0 a script cannot declare what it may do, so that one may be stopped halfway when memory runs out"
    return _finding("version", seen, findings.Level.UNSAFE, why, "install Redis 7.0 or later, or Valkey")


def _mode(info: Mapping[str, str]) -> findings.Finding:
    if info.get("cluster_enabled") != "1":
        return _finding("cluster-enabled", "no")
    why = "meterd speaks to one node, and a cluster has each partition on another one; this version does not support it"
    return _finding("cluster-enabled", "yes", findings.Level.UNSAFE, why, "use a Redis with cluster-enabled no")


def _role(info: Mapping[str, str]) -> findings.Finding:
    role = info.get("role", "unknown")
    if role == "master":
        return _finding("role", f"master, {info.get('connected_slaves', '0')} replicas")
    why = "a replica takes no writes, and what it answers may be old"
    return _finding("role", role, findings.Level.UNSAFE, why, "give the URL of the master, or of what follows it")


def _replicas(config: Mapping[str, str], fault: str) -> findings.Finding:
    subject, change = "min-replicas-to-write", "CONFIG SET min-replicas-to-write 1"
    why = "a master that lost its replicas goes on taking writes, which a failover to one of them then loses; the fence finds that"
    if fault:
        return _finding(
            subject, f"cannot see: {fault}", findings.Level.WARN, why, "allow +config|get, or look for yourself"
        )
    number = config.get(subject, "0")
    return _finding(subject, number) if number != "0" else _finding(subject, "0", findings.Level.WARN, why, change)


def _eviction(info: Mapping[str, str]) -> findings.Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return _finding("maxmemory-policy", policy)
    why = "when memory runs out Redis deletes keys, and an account that is deleted is lost money"
    return _finding("maxmemory-policy", policy, findings.Level.UNSAFE, why, "CONFIG SET maxmemory-policy noeviction")


def _memory(info: Mapping[str, str]) -> findings.Finding:
    used, limit = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    machine = int(info.get("total_system_memory", "0"))
    bound = limit or machine
    seen = f"{used / 2**20:,.0f} MiB of {bound / 2**20:,.0f} MiB{'' if limit else ', all of the machine'}"
    if bound and used > MEMORY_USED_MAX * bound:
        why = "when it is full, Reserve is refused; the outbox grows while Postgres is away"
        if not limit:
            why = "when it is full, the kernel kills Redis"
        return _finding("maxmemory", seen, findings.Level.WARN, why, "more memory, and maxmemory below the machine's")
    if machine and limit > machine:
        why = "the kernel kills Redis before it can refuse Reserve by itself"
        return _finding("maxmemory", seen, findings.Level.WARN, why, "CONFIG SET maxmemory, below the machine's memory")
    return _finding("maxmemory", seen)


def _durability(info: Mapping[str, str], config: Mapping[str, str], fault: str) -> list[findings.Finding]:
    if info.get("aof_enabled") != "1":
        why = "a restart loses every hold, and all that Postgres has not got yet"
        return [_finding("appendonly", "no", findings.Level.UNSAFE, why, "CONFIG SET appendonly yes")]
    found = [_finding("appendonly", "yes")]
    for name, meaning in (("aof_last_write_status", "write"), ("aof_last_bgrewrite_status", "rewrite")):
        if (status := info.get(name, "ok")) != "ok":
            level = findings.Level.UNSAFE if meaning == "write" else findings.Level.WARN
            why = f"the last {meaning} of the append-only file failed; Redis' log says why"
            found.append(_finding(name, status, level, why, "room on the disk, or another disk"))
    if fault:
        why = "with everysec a power loss takes up to a second of what was acknowledged, and with no far more"
        seen = f"cannot see: {fault}"
        change = "allow +config|get, or make sure that it is always"
        return [*found, _finding("appendfsync", seen, findings.Level.WARN, why, change)]
    found.append(_fsync(config.get("appendfsync", "unknown")))
    if config.get("no-appendfsync-on-rewrite") == "yes":
        why = "while the file is rewritten nothing is forced to disk, for up to 30 seconds"
        change = "CONFIG SET no-appendfsync-on-rewrite no"
        found.append(_finding("no-appendfsync-on-rewrite", "yes", findings.Level.WARN, why, change))
    return found


def _fsync(policy: str) -> findings.Finding:
    change = "CONFIG SET appendfsync always"
    if policy == "always":
        return _finding("appendfsync", policy)
    if policy == "everysec":
        why = "a power loss takes up to a second of acknowledged holds and charges; the fence finds it, meterd recover settles it"
        return _finding("appendfsync", policy, findings.Level.WARN, why, change)
    why = "a power loss takes all that the kernel had not written yet, which may be half a minute"
    return _finding("appendfsync", policy, findings.Level.UNSAFE, why, change)


async def _permissions(run: runner.Runner) -> findings.Finding:
    denied = list[str]()
    for parts in _HARMLESS:
        try:
            await run.command(parts)
        except runner.RedisRefusedError as exc:
            if "NOPERM" in str(exc):
                denied.append(" ".join(parts[:2]) if parts[0] in ("SCRIPT", "XINFO") else parts[0])
        except (runner.NoScriptError, errors.OverloadedError):
            continue  # It was let pass, and found nothing, or no memory.
    if not denied:
        return _finding("permissions", "all commands that meterd needs")
    why = f"the user may not {', '.join(denied)} on {keys.tag(0)}:…"
    change = "ACL SETUSER … ~{m:* +@all -@dangerous +script +eval +evalsha +info +config|get"
    return _finding("permissions", f"{len(denied)} commands are denied", findings.Level.UNSAFE, why, change)


async def _round_trip(run: runner.Runner) -> findings.Finding:
    took_ms = list[float]()
    for _ in range(ROUND_TRIPS):
        begin_s = time.perf_counter()
        await run.command(("TIME",))
        took_ms.append(1_000 * (time.perf_counter() - begin_s))
    median_ms = sorted(took_ms)[ROUND_TRIPS // 2]
    seen = f"{median_ms:.2f} ms"
    if median_ms <= ROUND_TRIP_MAX_MS:
        return _finding("round trip", seen)
    why = "every Reserve and Commit waits for one"
    return _finding("round trip", seen, findings.Level.WARN, why, "run meterd near its Redis")


async def _clock(run: runner.Runner) -> findings.Finding:
    before_ms = time.time_ns() // 1_000_000
    seconds, micros = await run.command(("TIME",))
    after_ms = time.time_ns() // 1_000_000
    difference_ms = int(seconds) * 1_000 + int(micros) // 1_000 - (before_ms + after_ms) // 2
    return findings.clock("redis", difference_ms)
