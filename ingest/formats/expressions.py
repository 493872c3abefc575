"""JMESPath expressions over JSON records, compiled once, with the functions that logs need besides.

| function | gives |
|---|---|
| `no_query(text)` | a URL or path without query, fragment and user: these may hold secrets |
| `host(text)` | the host of `host:port`, `[ipv6]:port` or a URL |
| `ms(value)` | milliseconds of a duration such as `3ms`, `1.5s`, `250µs`; a number is milliseconds already |
| `scale(number, factor)` | their product, for example of seconds and 1000 |
| `sha256(text)` | `sha256:` and its digest in hex: for ids of tokens, which must not be kept as they are |
| `before(text, mark)` | what stands in front of the first *mark*; the whole text where there is none |
| `after(text, mark)` | what stands behind the last *mark*; null where there is none |
| `outcome(code)` | `denied` for a provider's code that means a refusal, `error` for every other |
| `utc(text)` | a time that may lack its `T` and its offset, as RFC 3339; without an offset it is UTC |
| `ms_between(start, end)` | milliseconds from one such time to another; null where it ends before it begins |

All give null for null.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import jmespath
from jmespath import exceptions, functions, visitor

from ..errors import ConfigError, MalformedEvent
from .history_decoding import outcome_of_code
from .token_ids import text_digest

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
        if isinstance(number, str):  # cells of tables are texts; what is no number is refused by the member
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
        self.path = _json_path(self._fields) if self._fields is not None else f"$ | {text}"
        """Name of the source in error messages: a JSON path, or the expression itself where it is more than a path."""

    def __call__(self, record: Any) -> Any:
        """Value of the expression in *record*, None if absent. Raises MalformedEvent for a wrong argument type."""
        fields = self._fields
        if fields is None:
            try:
                return self._interpreter.visit(self._compiled.parsed, record)
            except exceptions.JMESPathError as error:
                raise MalformedEvent(str(error), self.path) from None
            except TypeError:  # jmespath compares what can not be: `status < 400` of a text
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


def _json_path(fields: tuple[str, ...]) -> str:
    return "$" + "".join(f".{name}" if _PLAIN_NAME.fullmatch(name) else f'["{name}"]' for name in fields)


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
    """Milliseconds between two times; None where one of them is none, or the second is the earlier one.

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
    """Milliseconds of `3ms`, `1.5s`, `1m30s`; None for what is no duration.

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
