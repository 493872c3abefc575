"""Kinds of members of the native event, and converters to them of what foreign records hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import msgspec
from msgspec import inspect

from ..errors import MalformedEvent
from ..events import NativeEvent, decode_json
from ..timestamps import EPOCH

MemberKind = Literal["text", "integer", "number", "flag", "names", "arguments", "time", "any"]
TimeFormat = Literal["rfc3339", "s", "ms", "us", "ns"]
MemberConverter = Callable[[Any], Any]

UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ABSENT_TEXTS = ("", "-")
"""Texts with which gateways say that there is nothing."""

_decode_json = msgspec.json.Decoder().decode

_KIND_OF_TYPE: dict[type, MemberKind] = {
    inspect.StrType: "text",
    inspect.LiteralType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "flag",
    inspect.ListType: "names",
    inspect.DateTimeType: "time",
}


def _member_kinds(struct: inspect.Type, prefix: str = "") -> dict[str, MemberKind]:
    """Kind by dotted name; `attributes`, a free object, is no leaf."""
    assert isinstance(struct, inspect.StructType)
    kinds: dict[str, MemberKind] = {}
    for field in struct.fields:
        kind = field.type
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        if isinstance(kind, inspect.UnionType):
            kind = next(part for part in kind.types if not isinstance(part, inspect.NoneType))
        if isinstance(kind, inspect.StructType):
            kinds |= _member_kinds(kind, f"{prefix}{field.name}.")
        elif isinstance(kind, inspect.ListType) and isinstance(kind.item_type, inspect.StructType):
            kinds[prefix + field.name] = "arguments"
        elif not isinstance(kind, inspect.DictType):
            kinds[prefix + field.name] = _KIND_OF_TYPE[type(kind)]
    return kinds


MEMBER_KINDS = _member_kinds(inspect.type_info(NativeEvent))


def member_converter(kind: MemberKind, time_format: TimeFormat) -> MemberConverter:
    """Converter to members of *kind* from values that are not None; it returns None for an empty value.

    It raises MalformedEvent (without a path) for a value that can be none.
    """
    if kind == "time" and time_format != "rfc3339":
        per_second = UNITS_PER_SECOND[time_format]
        return lambda value: value if _is_written_out(value) else _to_rfc3339(value, per_second)
    return _MEMBER_CONVERTERS[kind]


def _to_text(value: Any) -> str | None:
    if isinstance(value, str):
        return None if value in ABSENT_TEXTS else value
    if value is False:  # of `a && b`
        return None
    if value is True:
        return "true"
    if isinstance(value, int | float):
        return str(value)
    raise MalformedEvent(f"must be text, is {_json_type_name(value)}")


def _to_number(value: Any) -> float | None:
    if isinstance(value, str):
        if value in ABSENT_TEXTS:
            return None
        try:
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else float(value)
        except ValueError:
            raise MalformedEvent(f"must be a number, is `{value:.100}`") from None
    if value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedEvent(f"must be a finite number, is {_json_type_name(value)}")
    return value


def _to_integer(value: Any) -> int | None:
    number = _to_number(value)
    if number is None:
        return None
    if number != int(number):
        raise MalformedEvent(f"must be a whole number, is {number}")
    return int(number)


_BLANK_ALONE = re.compile(r"[^,\s]\s")


def _to_flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False, "": None, "-": None}
    if not isinstance(value, str) or value.lower() not in words:
        raise MalformedEvent(f"must be true or false, is {_json_type_name(value)}")
    return words[value.lower()]


def _to_names(value: Any) -> list[str] | None:
    """A list of texts, or one text with spaces (as OAuth writes scopes) or commas (as GitHub does) between names."""
    if isinstance(value, str):
        return None if value in ABSENT_TEXTS else _split_names(value)
    if value is False:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise MalformedEvent(f"must be a list of texts, is {_json_type_name(value)}")
    return value


def _split_names(text: str) -> list[str]:
    """Names of one text: where each blank stands behind a comma, commas are what separates them."""
    if "," not in text or _BLANK_ALONE.search(text.strip()) is not None:
        return text.split()
    return [name for part in text.split(",") if (name := part.strip())]


def _to_arguments(value: Any) -> list[Any] | None:
    """A list of objects, or its JSON as text, since attributes of OpenTelemetry hold no objects."""
    if value is False or (isinstance(value, str) and value in ABSENT_TEXTS):
        return None
    if isinstance(value, str):
        value = decode_json(_decode_json, value.encode())
    if not isinstance(value, list):
        raise MalformedEvent(f"must be a list of objects, or its JSON as text, is {_json_type_name(value)}")
    return value


def _is_written_out(value: Any) -> bool:
    """True for a time in words where numbers are usual: tables keep times as times, and say them so."""
    return isinstance(value, str) and value[4:5] == "-" and value[10:11] == "T"


def _to_rfc3339(value: Any, per_second: int) -> str | None:
    number = _to_number(value)
    if number is None:
        return None
    microseconds = number * 1_000_000 // per_second if isinstance(number, int) else number * (1e6 / per_second)
    try:
        time = EPOCH + timedelta(microseconds=round(microseconds))
    except OverflowError:
        raise MalformedEvent(f"time is out of range: {number}") from None
    return time.isoformat().replace("+00:00", "Z")


def _to_attribute(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise MalformedEvent(f"an attribute is a text, a number or a truth value, is {_json_type_name(value)}")
    return None if isinstance(value, str) and value in ABSENT_TEXTS else value


def _json_type_name(value: Any) -> str:
    """The JSON type of a value, for messages: what was sent may be a secret."""
    names = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


_MEMBER_CONVERTERS: dict[MemberKind, MemberConverter] = {
    "text": _to_text,
    "integer": _to_integer,
    "number": _to_number,
    "flag": _to_flag,
    "names": _to_names,
    "arguments": _to_arguments,
    "time": _to_text,
    "any": _to_attribute,
}
