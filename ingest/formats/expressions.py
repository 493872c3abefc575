"""JMESPath expressions over JSON records, compiled once, with additional functions for logs.

| function | gives |
|---|---|
| `no_query(text)` | a URL or path without query, fragment and user: these may hold secrets |
| `host(text)` | the host of `host:port`, `[ipv6]:port` or a URL |
| `ms(value)` | milliseconds of a duration such as `3ms`, `1.5s`, `250µs`; a number is milliseconds already |
| `scale(number, factor)` | their product, for example of seconds and 1000 |
| `sha256(text)` | `sha256:` and its digest in hex: for ids of tokens, which must not be kept as they are |
| `before(text, mark)` | the text before the first *mark*; the whole text if there is none |
| `after(text, mark)` | the text after the last *mark*; null if there is none |
| `outcome(code)` | `denied` for a provider's code that means a refusal, `error` for every other |
| `utc(text)` | a time that may lack its `T` and its offset, as RFC 3339; without an offset it is UTC |
| `ms_between(start, end)` | milliseconds from one such time to another; null if it ends before it begins |

All give null for null.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import jmespath
import msgspec
from jmespath import exceptions, functions, visitor
from msgspec import inspect

from ..errors import ConfigError, MalformedEvent
from ..events import NativeEvent, decode_json
from ..timestamps import EPOCH
from .history_decoding import outcome_of_code

_UNITS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 36e5}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|μs|ms|s|m|h)")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d+)?)\s?(Z|UTC|[+-]\d\d(?::?\d\d)?)?")
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")


class _LogFunctions(functions.Functions):
    """Functions for logs; jmespath finds them by their names."""

    @functions.signature({"types": ["string", "null"]})
    def _func_no_query(self, text: str | None) -> str | None:
        return None if text is None else without_query(text)

    @functions.signature({"types": ["string", "null"]})
    def _func_host(self, text: str | None) -> str | None:
        return None if text is None else host_of_address(text)

    @functions.signature({"types": ["string", "number", "null"]})
    def _func_ms(self, value: str | float | None) -> float | None:
        return parse_duration_ms(value) if isinstance(value, str) else value

    @functions.signature({"types": ["number", "string", "null"]}, {"types": ["number"]})
    def _func_scale(self, number: float | str | None, factor: float) -> float | str | None:
        if isinstance(number, str):  # cells of tables are texts; the member refuses what is not a number
            try:
                number = float(number)
            except ValueError:
                return number
        return None if number is None else number * factor

    @functions.signature({"types": ["string", "null"]})
    def _func_sha256(self, text: str | None) -> str | None:
        return text_digest(text) if text else None

    @functions.signature({"types": ["string", "null"]}, {"types": ["string"]})
    def _func_before(self, text: str | None, mark: str) -> str | None:
        return None if text is None else text.partition(mark)[0] if mark else text

    @functions.signature({"types": ["string", "null"]}, {"types": ["string"]})
    def _func_after(self, text: str | None, mark: str) -> str | None:
        return None if text is None or not mark or mark not in text else text.rpartition(mark)[2]

    @functions.signature({"types": ["string", "null"]})
    def _func_outcome(self, code: str | None) -> str | None:
        return None if not code else outcome_of_code(code)

    @functions.signature({"types": ["string", "null"]})
    def _func_utc(self, text: str | None) -> str | None:
        return None if text is None else utc_time(text)

    @functions.signature({"types": []}, {"types": []})
    def _func_ms_between(self, start: object, end: object) -> float | None:
        return ms_between(start, end) if isinstance(start, str) and isinstance(end, str) else None


_options = jmespath.Options(custom_functions=_LogFunctions())


class JmesPathExpression:
    """One compiled expression. Raises ConfigError."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled = jmespath.compile(text)
            self._compiled.search(None, options=_options)
        except (exceptions.ParseError, exceptions.UnknownFunctionError, exceptions.ArityError) as error:
            raise ConfigError(f"no JMESPath expression: {str(error).splitlines()[0]} in `{text}`") from None
        except exceptions.JMESPathError:
            pass  # of the wrong type, since there was no record
        self._interpreter = visitor.TreeInterpreter(_options)  # one for all records: it remembers its methods by node
        self._fields = _plain_path_fields(self._compiled.parsed)
        self.path = f"$ | {text}"
        """Name of the source in error messages: a JSON path, or the expression itself if it is more than a path."""
        if self._fields is not None:
            names = (f".{name}" if _PLAIN_NAME.fullmatch(name) else f'["{name}"]' for name in self._fields)
            self.path = "$" + "".join(names)

    def __call__(self, record: Any) -> Any:
        """Value of the expression in *record*, None if absent. Raises MalformedEvent for a wrong argument type."""
        fields = self._fields
        if fields is None:
            try:
                return self._interpreter.visit(self._compiled.parsed, record)
            except exceptions.JMESPathError as error:
                raise MalformedEvent(str(error), self.path) from None
            except TypeError:  # of `status < 400` if the status is a text
                raise MalformedEvent("it compares values of different types", self.path) from None
        for name in fields:
            if type(record) is not dict:
                return None
            record = record.get(name)
        return record


def _plain_path_fields(node: Any) -> tuple[str, ...] | None:
    """Names of a plain path such as `request.headers`, which need no interpreter; None for everything else."""
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] != "subexpression":
        return None
    parts = [_plain_path_fields(child) for child in node["children"]]
    return None if None in parts else tuple(name for part in parts for name in part or ())


def without_query(text: str) -> str:
    """A URL or path without query, fragment and user.

    >>> without_query("https://me:secret@api.example/v1?token=x#y"), without_query("/v1?token=x")
    ('https://api.example/v1', '/v1')
    """
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    scheme, separator, rest = bare.partition("://")
    if not separator:
        return bare
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def utc_time(text: str) -> str:
    """A time as RFC 3339; any other text stays as it is, and is refused as a time.

    >>> utc_time("2026-03-02 08:00:00.5"), utc_time("2026-03-02 08:00:00 UTC"), utc_time("2026-03-02T08:00:00+01:00")
    ('2026-03-02T08:00:00.5Z', '2026-03-02T08:00:00Z', '2026-03-02T08:00:00+01:00')
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return text
    offset = match[3]
    if offset in (None, "Z", "UTC"):
        return f"{match[1]}T{match[2]}Z"
    minutes = offset[3:].removeprefix(":") or "00"
    return f"{match[1]}T{match[2]}{offset[:3]}:{minutes}"


def host_of_address(text: str) -> str:
    """Host of an address; any other text stays as it is.

    >>> [host_of_address(text) for text in ("[::1]:59257", "10.0.0.1:80", "https://A.example/x", "::1")]
    ['::1', '10.0.0.1', 'a.example', '::1']
    """
    if text.count(":") > 1 and not text.startswith("[") and "://" not in text:
        return text
    try:
        return urlsplit(text if "://" in text else f"//{text}").hostname or text
    except ValueError:
        return text


def ms_between(start: str, end: str) -> float | None:
    """Milliseconds between two times; None if one of them is invalid, or the second is earlier.

    >>> ms_between("2026-03-02T08:00:00Z", "2026-03-02 08:00:01.5"), ms_between("2026-03-02T08:00:00Z", "soon")
    (1500.0, None)
    """
    try:
        first, last = (datetime.fromisoformat(utc_time(text)) for text in (start, end))
        took = (last - first) / timedelta(milliseconds=1)
    except (ValueError, TypeError):
        return None
    return took if took >= 0.0 else None


def parse_duration_ms(text: str) -> float | None:
    """Milliseconds of `3ms`, `1.5s`, `1m30s`; None if it is not a duration.

    >>> parse_duration_ms("3ms"), parse_duration_ms("1m1.5s"), parse_duration_ms("soon")
    (3.0, 61500.0, None)
    """
    end, total = 0, 0.0
    for part in _DURATION.finditer(text):
        if part.start() != end:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    return total if end and end == len(text) and math.isfinite(total) else None


# Events name tokens by the digest of their ids, which can be compared and does not reveal the id.

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def token_id_digest(token_id: str) -> str:
    """`sha256:` and the digest of an id in hex; one that is such a digest already stays as it is."""
    return token_id if _DIGEST.fullmatch(token_id) else text_digest(token_id)


def text_digest(text: str) -> str:
    """`sha256:` and the digest of any text in hex."""
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


# Kinds of members of the native event, and converters to them of what foreign records hold.

MemberKind = Literal["text", "integer", "number", "flag", "names", "arguments", "time", "any"]
TimeFormat = Literal["rfc3339", "s", "ms", "us", "ns"]
MemberConverter = Callable[[Any], Any]

UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ABSENT_TEXTS = ("", "-")
"""Texts that gateways log for a missing value."""

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
    """Kind by dotted name; `attributes`, a free object, is not a leaf."""
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
    """Return a converter to members of *kind* from values that are not None; it returns None for an empty value.

    The converter raises MalformedEvent, without a path, for a value that does not fit.
    """
    if kind == "time" and time_format != "rfc3339":
        per_second = UNITS_PER_SECOND[time_format]
        return lambda value: _to_rfc3339(value, per_second)
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
        if value in ABSENT_TEXTS:
            return None
        if "," not in value or _BLANK_ALONE.search(value.strip()) is not None:  # unless each blank follows a comma
            return value.split()
        return [name for part in value.split(",") if (name := part.strip())]
    if value is False:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise MalformedEvent(f"must be a list of texts, is {_json_type_name(value)}")
    return value


def _to_arguments(value: Any) -> list[Any] | None:
    """A list of objects, or its JSON as text, since attributes of OpenTelemetry hold no objects."""
    if value is False or (isinstance(value, str) and value in ABSENT_TEXTS):
        return None
    if isinstance(value, str):
        value = decode_json(_decode_json, value.encode())
    if not isinstance(value, list):
        raise MalformedEvent(f"must be a list of objects, or its JSON as text, is {_json_type_name(value)}")
    return value


def _to_rfc3339(value: Any, per_second: int) -> str | None:
    if isinstance(value, str) and value[4:5] == "-" and value[10:11] == "T":  # tables store times as times
        return value
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
