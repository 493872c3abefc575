"""The native audit event and its typed decoder.

`decode_event` is the only way in: it accepts one JSON object and either returns a `NativeEvent` or raises
`MalformedEvent` with the path of the wrong member. Members that are not in the schema are never an error; the pipeline
does not read them, and the raw record keeps them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import msgspec

from trustwatch_client.events import (
    MAX_ARGUMENTS,
    MAX_CALL_INDEX,
    MAX_EVENT_BYTES,
    MAX_LABEL_LENGTH,
    AuditEvent,
    CausedBy,
    Effect,
    EventType,
    Origin,
    Outcome,
    Provenance,
)

from .errors import MalformedEvent

NativeEvent = AuditEvent
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
EFFECTS: tuple[str, ...] = get_args(Effect)
OUTCOMES: tuple[str, ...] = get_args(Outcome)
PROVENANCES: tuple[str, ...] = get_args(Provenance)
ORIGINS: tuple[str, ...] = get_args(Origin)
CAUSES: tuple[str, ...] = get_args(CausedBy)

DecodedT = TypeVar("DecodedT")
_MAX_NUMBER = 1e300
_decoder = msgspec.json.Decoder(NativeEvent, strict=True)


def decode_event(raw: bytes | memoryview) -> NativeEvent:
    """Decode and check one native event. Raises MalformedEvent."""
    if len(raw) > MAX_EVENT_BYTES:
        raise MalformedEvent(f"record has {len(raw)} bytes, limit is {MAX_EVENT_BYTES}")
    try:
        event = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _malformed(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"not a JSON object: {error}") from None
    _check_values(event)
    return event


def _check_values(event: NativeEvent) -> None:
    """Rules that the type alone cannot state."""
    if event.time.tzinfo is None:
        raise MalformedEvent("time has no UTC offset; RFC 3339 requires one (for example a trailing `Z`)", "$.time")
    if not 1970 <= event.time.year <= 9000:
        raise MalformedEvent(f"time is outside the years 1970 to 9000: {event.time.isoformat()}", "$.time")
    # The sum of numbers that are not negative shows whether all are finite (or so large that it does not matter).
    if (
        not (event.bytes_in or 0.0) + (event.bytes_out or 0.0) + (event.duration_ms or 0.0) + (event.count or 0.0)
        < _MAX_NUMBER
    ):
        _refuse_infinite(event)


def _refuse_infinite(event: NativeEvent) -> None:
    for name in ("bytes_in", "bytes_out", "duration_ms", "count"):
        value = getattr(event, name)
        if value is not None and not math.isfinite(value):
            raise MalformedEvent("number is not finite", f"$.{name}")


_MISSING = re.compile(r"missing required field `(\w+)`")


def _malformed(error: msgspec.ValidationError) -> MalformedEvent:
    """Error with the path of the wrong member; for a missing one msgspec gives the path of its object only."""
    message, path = _split_path(error)
    missing = _MISSING.search(message)
    path = f"{path}.{missing.group(1)}" if missing else path
    advice = _ADVICE_ON_ARGUMENTS.get(_LIST_INDEX.sub("[]", path))
    return MalformedEvent(message if advice is None else f"{message}; {advice}", path)


_LIST_INDEX = re.compile(r"\[\d+\]")
_ADVICE_ON_ARGUMENTS = {
    "$.arguments": f"send a list of at most {MAX_ARGUMENTS} arguments: leave out those from the prompt first",
    "$.arguments[]": "an argument is an object with name and origin, and where it can be with hash",
    "$.arguments[].name": f"give 1 to {MAX_LABEL_LENGTH} characters",
    "$.arguments[].origin": f"it is one of {', '.join(ORIGINS)}",
    "$.arguments[].hash": "give 8 to 64 hexadecimal digits of a keyed hash, never the value",
    "$.arguments[].from": f"it is the index of an earlier call of the session, 0 to {MAX_CALL_INDEX}",
    "$.arguments[].from_action": f"give 1 to {MAX_LABEL_LENGTH} characters",
    "$.arguments[].part": "it is true or false",
    "$.arguments[].untrusted": "it is true or false",
}
"""Help by path: these members are computed by programs that were written for them, and msgspec's words are terse."""


def event_schema_components(prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON Schema of the native event and of what it is made of, by published name; references begin with *prefix*."""
    _, components = msgspec.json.schema_components([NativeEvent], ref_template=prefix + "{name}")
    name = NativeEvent.__name__
    return {"$ref": prefix + name}, {name: components.pop(name), **components}


def event_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the native event, as served by the API."""
    schema, components = event_schema_components("#/$defs/")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://trustwatch.dev/schema/audit-event.v1.json",
        "title": "Trustwatch audit event v1",
        **schema,
        "$defs": components,
    }


MAX_JSON_VALUES = 2_000_000
"""Values in one piece of foreign JSON. Each takes 50 to 200 bytes once it is decoded, however short it is as text."""

_FEW_JSON_BYTES = 64 * 1024


def check_json_values(raw: bytes) -> None:
    """Raise MalformedEvent for JSON that may hold more than `MAX_JSON_VALUES`; signs within texts count too."""
    if len(raw) > _FEW_JSON_BYTES and sum(map(raw.count, (b",", b"{", b"["))) > MAX_JSON_VALUES:
        raise MalformedEvent(f"the JSON holds more than {MAX_JSON_VALUES} values: send less at once")


def decode_json(decode: Callable[[bytes], DecodedT], raw: bytes) -> DecodedT:
    """Apply *decode* of msgspec to a foreign record. Raises MalformedEvent, with the path of a wrong member."""
    check_json_values(raw)
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise MalformedEvent(*_split_path(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"not a JSON object: {error}") from None


def _split_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """Message and JSON path of an error; msgspec joins them."""
    message, at_path, path = str(error).rpartition(" - at `")
    return (message, path.removesuffix("`")) if at_path else (str(error), "$")
