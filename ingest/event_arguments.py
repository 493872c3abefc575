"""Origins of a call's arguments as an event tells them: in its own members, or among its `attributes`.

Attributes are free: what has another shape there means something else, and is passed over instead of refused. A member
wins over an attribute of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trustwatch_client.events import MAX_ARGUMENTS, Argument

from .events import NativeEvent

ARGUMENTS_ATTRIBUTE, UNTRUSTED_RESULT_ATTRIBUTE = "arguments", "untrusted_result"
_FLAG_WORDS = {"true": True, "false": False}


def read_arguments(event: NativeEvent) -> Sequence[Argument] | None:
    """Arguments of the call; None if the sender told none, which is not the same as a call without any.

    Of a list among the attributes the first `MAX_ARGUMENTS` are looked at, and those that are arguments are read.
    """
    if event.arguments is not None:
        return event.arguments
    listed = _listed(None if event.attributes is None else event.attributes.get(ARGUMENTS_ATTRIBUTE))
    if listed is None:
        return None
    return [argument for item in listed[:MAX_ARGUMENTS] if (argument := _argument_or_none(item)) is not None]


def read_untrusted_result(event: NativeEvent) -> bool | None:
    """True if the answer may hold what others wrote; None if the sender does not say."""
    if event.untrusted_result is not None or event.attributes is None:
        return event.untrusted_result
    value = event.attributes.get(UNTRUSTED_RESULT_ATTRIBUTE)
    if isinstance(value, str):
        return _FLAG_WORDS.get(value.lower())
    return value if isinstance(value, bool) else None


def may_tell_origins(payload: bytes) -> bool:
    """False if an event tells no origins; decoding it tells whether it does. An escape could spell their names."""
    return b"arguments" in payload or b"untrusted_result" in payload or b"\\u" in payload


def _listed(value: Any) -> list[Any] | None:
    """A list, or the JSON of one as text, which is all that attributes of OpenTelemetry can hold."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _argument_or_none(item: Any) -> Argument | None:
    try:
        return msgspec.convert(item, Argument)
    except msgspec.ValidationError:
        return None
