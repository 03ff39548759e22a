"""Usage from a provider's own response, wherever each provider has it.

Paths come from the bundled data (genai-prices' extractors). The body is a stranger's: nothing in it is followed but these paths, and
every count is checked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from meterd.core import catalogue, errors, ids, usage
from meterd.pricing import bundled, document

# A response with a long text in it still fits; more would only cost time on the event loop.
JSON_BYTES_MAX = 256 * 1024
FIELD = "provider_response.json"

# Where the usage's shape alone has to tell the API: the flavors of these, in this order.
_COMMON = ("anthropic", "openai", "google", "aws", "cohere", "perplexity")
# The tiers that have prices of their own; all other names in responses mean the standard price.
_PRICED = frozenset(("batch", "fast", "flex", "priority"))
_TRAFFIC = {"on_demand_priority": "priority", "on_demand_flex": "flex"}
_TIER_PATHS = (
    ("service_tier",),
    ("usage", "service_tier"),
    ("usage", "speed"),
    ("usageMetadata", "serviceTier"),
    ("usageMetadata", "trafficType"),
    ("serviceTier", "type"),
    ("response", "service_tier"),
)

Step = str | tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    usage: usage.Usage
    # As the provider names it; "" where the response does not.
    model: str
    # As pricing.quote_model takes it; "" for standard.
    service_tier: str
    provider: str
    api_flavor: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Mapping:
    path: tuple[Step, ...]
    field: str
    required: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Flavor:
    name: str
    root: tuple[Step, ...]
    model: tuple[Step, ...]
    mappings: tuple[_Mapping, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """What a flavor makes of a body; the one that explains the most of it is the body's own."""

    provider: str
    flavor: _Flavor
    body: Mapping[str, Any]
    counts: dict[str, int]
    paths: int


def extract(json: bytes, *, provider: str = "", model: str = "", api_flavor: str = "") -> Extracted:
    """The usage, model and service tier in a response body or its usage part.

    `provider`, and without it `model`, tell whose response it is; without both, its shape does. `api_flavor` names one of the provider's
    APIs; empty takes the one that fits best. InvalidArgumentError names provider_response and what is wrong.
    """
    body = _parsed(json)
    groups = _candidates(provider, model or _text(_find(("model",), body)), api_flavor)
    read = next((read for bodies in _bodies(body) for flavors in groups if (read := _best(flavors, bodies))), None)
    if read is None:
        raise errors.InvalidArgumentError(FIELD, "has no usage where the provider's responses have it")
    counts = read.counts
    if counts.get("reasoning_tokens", 0) > counts.get("output_tokens", 0):
        # Some gateways count reasoning apart from output. It is for information with all but a few models; a Commit must not fail by it.
        counts["reasoning_tokens"] = counts.get("output_tokens", 0)
    try:
        checked = usage.checked(counts, FIELD)
    except errors.InvalidArgumentError as exc:
        raise errors.InvalidArgumentError(FIELD, str(exc).removeprefix(f"{FIELD}.")) from exc
    return Extracted(
        usage=checked,
        model=_text(_find(read.flavor.model, read.body)),
        service_tier=_tier(body),
        provider=read.provider,
        api_flavor=read.flavor.name,
    )


def _parsed(json: bytes) -> dict[str, Any]:
    if len(json) > JSON_BYTES_MAX:
        raise errors.InvalidArgumentError(FIELD, f"longer than {JSON_BYTES_MAX} bytes")
    try:
        # Refuses NaN, infinities, bad UTF-8 and what nests more than 1024 deep; an int beyond 64 bits becomes a float, refused below.
        body = orjson.loads(json)
    except orjson.JSONDecodeError as exc:
        raise errors.InvalidArgumentError(FIELD, f"not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise errors.InvalidArgumentError(FIELD, "must be a JSON object")
    return body


def _bodies(body: dict[str, Any]) -> Sequence[Sequence[Mapping[str, Any]]]:
    """What the body may be, likeliest first: a response or a stream's event with one in it, or else the usage part alone."""
    inner = body.get("response")
    whole = (body, inner) if isinstance(inner, dict) else (body,)
    return whole, ({"usage": body, "usageMetadata": body, "response": {"usage": body}},)


def _candidates(provider: str, model: str, api_flavor: str) -> Sequence[Sequence[tuple[str, _Flavor]]]:
    """The flavors to try, in groups: a later group only where none before explains the body."""
    known = _known()
    owner = catalogue.find_provider(known.providers, provider) if provider else None
    if owner is None and model and not provider:
        owner = catalogue.provider_of_model(known.providers, model)
    flavors = known.flavors.get(owner.id, ()) if owner is not None else ()
    if not api_flavor:
        own = [(owner.id, flavor) for flavor in flavors] if owner is not None else []
        common = [(name, flavor) for name in _COMMON for flavor in known.flavors[name]]
        # A provider that was only guessed from the model may be wrong: a gateway answers in its own shape.
        return (own, common) if provider else (own + common,)
    chosen = [(owner.id, flavor) for flavor in flavors if flavor.name == api_flavor] if owner is not None else []
    if not chosen and not flavors:
        chosen = [(name, flavor) for name in _COMMON for flavor in known.flavors[name] if flavor.name == api_flavor]
    if not chosen:
        names = ", ".join(flavor.name for flavor in flavors)
        raise errors.InvalidArgumentError(
            "provider_response.api_flavor", f"unknown; known are {names or 'chat, responses, default'}"
        )
    return (chosen,)


def _best(flavors: Sequence[tuple[str, _Flavor]], bodies: Sequence[Mapping[str, Any]]) -> _Read | None:
    """The flavor that finds a place for most of a body; among equals the first, so that a provider's own come first."""
    best: _Read | None = None
    for body in bodies:
        for provider, flavor in flavors:
            read = _read(provider, flavor, body)
            if read is None:
                continue
            if best is not None and provider != best.provider and provider in _COMMON and best.provider not in _COMMON:
                continue
            if best is None or read.paths > best.paths:
                best = read
    return best


def _read(provider: str, flavor: _Flavor, body: Mapping[str, Any]) -> _Read | None:
    """The counts of the flavor's paths; None if the body is not of this flavor. InvalidArgumentError for a value that is no count."""
    root = _find(flavor.root, body)
    if not isinstance(root, dict):
        return None
    counts: dict[str, int] = {}
    paths: set[tuple[Step, ...]] = set()
    for mapping in flavor.mappings:
        value = _find(mapping.path, root)
        if value is None:
            if mapping.required:
                return None
            continue
        paths.add(mapping.path)
        counts[mapping.field] = counts.get(mapping.field, 0) + _count(value, flavor.root + mapping.path)
    if "input_tokens" not in counts and "output_tokens" not in counts:
        return None
    # Flavors of embeddings have no output, but a chat's response that does not say its output must not pass for one of these.
    if "output_tokens" not in counts and (
        "choices" in body or root.get("total_tokens", counts["input_tokens"]) != counts["input_tokens"]
    ):
        return None
    return _Read(provider=provider, flavor=flavor, body=body, counts=counts, paths=len(paths))


def _count(value: object, path: tuple[Step, ...]) -> int:
    if type(value) is int and 0 <= value <= usage.COUNT_MAX:
        return value
    named = ".".join(step if isinstance(step, str) else step[1] for step in path)
    raise errors.InvalidArgumentError(FIELD, f"{named} must be an integer from 0 to {usage.COUNT_MAX}")


def _find(path: Sequence[Step], data: object) -> object:
    """The value at the path; None if there is none."""
    for step in path:
        if isinstance(step, str):
            if not isinstance(data, dict):
                return None
            data = data.get(step)
            continue
        field, text = step
        if not isinstance(data, list):
            return None
        data = next((item for item in data if isinstance(item, dict) and _is_text(item.get(field), text)), None)
    return data


def _is_text(value: object, text: str) -> bool:
    return isinstance(value, str) and value.lower() == text.lower()


def _text(value: object) -> str:
    """A name in a response; one that could not be a name is none."""
    if not isinstance(value, str) or not value:
        return ""
    try:
        return ids.checked_id(value, FIELD)
    except errors.InvalidArgumentError:
        return ""


def _tier(body: Mapping[str, Any]) -> str:
    for path in _TIER_PATHS:
        value = _text(_find(path, body)).lower()
        value = _TRAFFIC.get(value, value)
        if value in _PRICED:
            return value
    return ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    providers: tuple[catalogue.Provider, ...]
    flavors: Mapping[str, tuple[_Flavor, ...]]


@functools.cache
def _known() -> _Known:
    values = bundled.load(bundled.EXTRACTORS)
    return _Known(
        providers=document.providers(values),
        flavors={value["id"]: tuple(_flavor(flavor) for flavor in value["flavors"]) for value in values},
    )


def _flavor(value: Mapping[str, Any]) -> _Flavor:
    return _Flavor(
        name=value["name"],
        root=_path(value["root"]),
        model=_path(value["model"]),
        mappings=tuple(
            _Mapping(path=_path(mapping["path"]), field=mapping["field"], required=mapping["required"])
            for mapping in value["mappings"]
        ),
    )


def _path(steps: Sequence[Any]) -> tuple[Step, ...]:
    return tuple(step if isinstance(step, str) else (step[0], step[1]) for step in steps)
