"""Rows of tables, of CSV and of Parquet, as JSON records."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_DELIMITERS = ",;\t"
_COLUMN_NAME = re.compile(r"[A-Za-z_@$][\w@$ .:/()\[\]-]*")
_encoder = msgspec.json.Encoder(enc_hook=str)
_decode = msgspec.json.Decoder().decode


def column_delimiter(lines: Sequence[str]) -> str | None:
    """The sign between columns if the first of *lines* is a header; None where it is none.

    >>> column_delimiter(["time,who", "1,me"]), column_delimiter(["2025-01-01,a", "2025-01-02,b"])
    (',', None)
    """
    for delimiter in _DELIMITERS:
        try:
            names, *rows = csv.reader(lines or [""], delimiter=delimiter)
        except csv.Error:  # a cell beyond every bound
            continue
        names = [name.strip() for name in names]
        if len(names) < 2 or len(set(names)) < len(names) or not all(map(_COLUMN_NAME.fullmatch, names)):
            continue
        if all(len(row) == len(names) for row in rows) or '"' in lines[-1]:  # a quoted cell may go on in the next line
            return delimiter
    return None


def row_record(row: Mapping[str, Any]) -> bytes:
    """A row as a JSON object: empty cells are left out, JSON in a cell is an object, times without an offset are UTC.

    A column `a.b` is both the member of that name and `b` of the object `a`.

    >>> row_record({"at": "1", "who.id": "me", "note": "", "more": '{"x": 1}'})
    b'{"at":"1","who.id":"me","more":{"x":1},"who":{"id":"me"}}'
    """
    values = {name: _cell_value(value) for name, value in row.items()}
    record = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, value in [*record.items()]:
        if "." in name:
            _set_nested(record, name.split("."), value)
    return _encoder.encode(record)


def _set_nested(record: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        record = record.setdefault(parent, {})
        if not isinstance(record, dict):  # a column has that name
            return
    record.setdefault(last, value)


def _cell_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return _decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    if isinstance(value, dict):
        return {name: inner for name, part in value.items() if (inner := _cell_value(part)) is not None}
    return value
