"""Files of records in all supported compressions and layouts.

gzip, zstd and Parquet are recognised by their first bytes, the rest by the first lines: JSON lines and other lines of a
log, JSON (an array, an object that wraps records, objects behind each other), CSV with a header. A file with the values
of a topic is our own: each follows its length.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec

from ..archive.archive_files import POSITION_FILE
from ..errors import ConfigError, MalformedEvent
from ..events import decode_json
from ..extras import require_extra
from ..file_source import BLOCK_BYTES, MAX_LINE_BYTES, ByteProgress, UnreadableFile, buffered_stream, read_now
from ..formats.wrapped_records import wrapped_array
from ..log.segment_import import is_log
from .json_cutting import BrokenJson, JsonCutter, Wrapper

HEAD_BYTES = 64 * 1024
"""Bytes by which a file is recognised."""

Packing = Literal["none", "gzip", "zstd", "parquet"]
Cutting = Literal["lines", "json", "csv", "parquet", "values"]
CutRecord = bytes | MalformedEvent
"""A record, or the error in its place."""

_PACKINGS: dict[bytes, Packing] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "parquet"}
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    codecs.BOM_UTF16_LE: "UTF-16: write it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16: write it as UTF-8",
}
_LOG_NAME = re.compile(r".*\.(json|jsonl|ndjson|log|txt|csv|tsv|parquet|gz|zst)", re.IGNORECASE)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE_LENGTH = struct.Struct("<I")


class RecordFile(NamedTuple):
    """One file, recognised."""

    path: Path  # where it is
    name: str  # as messages call it
    packing: Packing  # what packs it
    cutting: Cutting  # layout of its records
    delimiter: str = ","  # of a CSV
    wrapper: Wrapper | None = None  # what an object of records is; None = as exports are

    @property
    def argument(self) -> str:
        """Name under which a command reads its records again; those of a topic have to be saved before."""
        return "RECORDS" if self.cutting == "values" else self.name

    def records(self, progress: ByteProgress | None = None) -> Iterator[CutRecord]:
        """The records, in order. Raises UnreadableFile or ConfigError."""
        if self.cutting == "parquet":
            require_extra("archive", f"{self.name} is Parquet")
            from ..archive.archive_reader import parquet_rows

            yield from map(row_record, parquet_rows(self.path))
            return
        if self.cutting == "values":
            yield from _values(self.path, progress)
            return
        with _readable(self.name), _unpacked(self.path, self.name, self.packing, progress) as stream:
            if self.cutting == "json":
                try:
                    yield from JsonCutter(stream, self.wrapper).records()
                except BrokenJson as error:
                    raise UnreadableFile(f"{self.name}, {error}") from None
            elif self.cutting == "csv":
                yield from _csv_records(stream, self.delimiter, self.name)
            else:
                yield from _lines(stream, self.name)


def recognise_file(path: Path, name: str | None = None, wrapper: Wrapper | None = None) -> RecordFile:
    """Recognise a file by its beginning. Raises UnreadableFile or ConfigError."""
    name = name or str(path)
    with _readable(name):
        with path.open("rb") as file:
            first = file.read(8)
        packing: Packing = next((name for sign, name in _PACKINGS.items() if first.startswith(sign)), "none")
        if packing == "parquet":
            return RecordFile(path, name, packing, "parquet")
        with _unpacked(path, name, packing) as stream:
            head = stream.read(HEAD_BYTES)
    for sign, what in _OTHER_FILES.items():
        if head.startswith(sign):
            raise UnreadableFile(f"{name}: is {what}")
    strange = head.decode("utf-8", "replace").count("\ufffd")  # many logs contain a few: the record is at fault
    if b"\0" in head or strange * 10 > len(head):
        raise UnreadableFile(f"{name}: is neither text in UTF-8 nor gzip, zstd or Parquet: not a log that can be read")
    cutting, delimiter = _recognise_cutting(name, head, wrapper)
    return RecordFile(path, name, packing, cutting, delimiter, wrapper)


def is_lines(head: bytes, wrapper: Wrapper | None = None) -> bool:
    """True if the beginning of a stream shows that it is text of one record a line."""
    packed = any(head.startswith(sign) for sign in (*_PACKINGS, *_OTHER_FILES))
    return not packed and _recognise_cutting("", head.removeprefix(codecs.BOM_UTF8), wrapper)[0] == "lines"


def log_files(folder: Path) -> list[Path]:
    """Files below a folder whose names are those of logs, in the order of their paths.

    Leaves out hidden files, and those of an archive or event log of the service, which are named explicitly.
    """
    paths = [path for path in folder.rglob("*") if _LOG_NAME.fullmatch(path.name) and path.is_file()]
    archives = {mark.parent for mark in folder.rglob(POSITION_FILE)}
    event_logs = {parent for parent in {path.parent for path in paths} if is_log(parent)}
    return sorted(
        path
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (archives | event_logs) & {*path.parents}
    )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{name}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def _unpacked(path: Path, name: str, packing: Packing, progress: ByteProgress | None = None) -> Iterator[BinaryIO]:
    """The stream of what a file holds, without a byte order mark."""
    with path.open("rb") as file:
        stream: Any = file
        if packing == "gzip":
            stream = gzip.GzipFile(fileobj=file)
        elif packing == "zstd":
            require_extra("archive", f"{name} is packed with zstd")
            from ..archive.archive_reader import open_zstd

            stream = open_zstd(file)
        is_first = True

        def read(size: int) -> bytes:
            nonlocal is_first
            block: bytes = stream.read(size)
            if is_first:
                is_first = False
                block = block.removeprefix(codecs.BOM_UTF8) or stream.read(size)
            if progress is not None:
                progress(file.tell())
            return block

        yield buffered_stream(read)


def _recognise_cutting(name: str, head: bytes, wrapper: Wrapper | None = None) -> tuple[Cutting, str]:
    lines = head.strip().split(b"\n")
    first = lines[0].strip()
    if first[:1] == b"[":
        return ("json" if head.strip()[1:].lstrip()[:1] in (b"{", b"[", b"]", b"") else "lines"), ","
    if first[:1] == b"{":
        return _cutting_of_objects(lines, wrapper), ","
    text = io.StringIO(head.strip().decode(errors="replace"), newline="")  # lines as the reader of rows cuts them
    delimiter = column_delimiter([*itertools.islice(text, 2)])
    if delimiter is not None:
        return "csv", delimiter
    if re.search(r"\.[ct]sv(\.|$)", name):
        raise UnreadableFile(
            f"{name}: its first line is not a header: it must name the columns, each once (`time,agent,action,…`)"
        )
    return "lines", ","


def _cutting_of_objects(lines: list[bytes], wrapper: Wrapper | None) -> Cutting:
    """Lines if one of the first is a whole object that wraps nothing; else JSON."""
    for line in lines[:5]:
        try:
            members = decode_json(_members.decode, line)
            wraps = wrapped_array(members) is not None if wrapper is None else wrapper.unwrap(line) != [line]
            return "json" if wraps else "lines"
        except MalformedEvent:
            continue
    return "json"


def _lines(stream: Any, name: str) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise UnreadableFile(f"{name}: a line has more than {MAX_LINE_BYTES} bytes")
        yield from filter(None, map(bytes.strip, lines))
    if rest.strip():
        yield rest.strip()


def write_value(file: BinaryIO, value: bytes) -> None:
    """Write the value of a record so that `RecordFile`, whose cutting is `values`, gives it back as it is."""
    file.write(_VALUE_LENGTH.pack(len(value)))
    file.write(value)


def _values(path: Path, progress: ByteProgress | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        while length := file.read(_VALUE_LENGTH.size):
            yield file.read(*_VALUE_LENGTH.unpack(length))
            if progress is not None:
                progress(file.tell())


def _csv_records(stream: Any, delimiter: str, name: str) -> Iterator[CutRecord]:
    text = io.TextIOWrapper(stream, "utf-8", "replace", newline="")
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(text, delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(rows)]
        for row in rows:
            if len(row) == len(header):
                yield row_record(dict(zip(header, row, strict=True)))
            elif row:
                yield MalformedEvent(f"the row has {len(row)} cells, the header {len(header)}")
    except csv.Error as error:
        raise UnreadableFile(f"{name}, line {rows.line_num}: no CSV: {error}") from None


def require_files(folder: Path) -> list[Path]:
    """Return `log_files`. Raises ConfigError if there are none."""
    if (folder / POSITION_FILE).exists():
        raise ConfigError(f"{folder}: is an archive, not a folder of logs: `trustwatch convert {folder} --out …` first")
    paths = log_files(folder)
    if not paths:
        raise ConfigError(
            f"{folder}: neither an archive (it has a `{POSITION_FILE}`), nor an event log (`log` in the service's"
            " data_dir), nor logs: nothing in it is called *.json, *.jsonl, *.ndjson, *.log, *.txt, *.csv, *.tsv,"
            " *.parquet, *.gz or *.zst"
        )
    return paths


_DELIMITERS = ",;\t"
_COLUMN_NAME = re.compile(r"[A-Za-z_@$][\w@$ .:/()\[\]-]*")
_encoder = msgspec.json.Encoder(enc_hook=str)
_decode = msgspec.json.Decoder().decode


def column_delimiter(lines: Sequence[str]) -> str | None:
    """Return the delimiter of columns if the first of *lines* is a header; None if it is not.

    >>> column_delimiter(["time,who", "1,me"]), column_delimiter(["2025-01-01,a", "2025-01-02,b"])
    (',', None)
    """
    for delimiter in _DELIMITERS:
        try:
            names, *rows = csv.reader(lines or [""], delimiter=delimiter)
        except csv.Error:  # a cell is too large
            continue
        names = [name.strip() for name in names]
        if len(names) < 2 or len(set(names)) < len(names) or not all(map(_COLUMN_NAME.fullmatch, names)):
            continue
        if all(len(row) == len(names) for row in rows) or '"' in lines[-1]:  # a quoted cell may go on in the next line
            return delimiter
    return None


def row_record(row: Mapping[str, Any]) -> bytes:
    """Encode a row as a JSON object without empty cells. JSON in a cell is decoded; times without an offset are UTC.

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


def peek_line(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Read a stream up to the end of its first line, or 64 KiB; return that, and the whole stream from its start."""
    head = b""
    while b"\n" not in head.lstrip() and len(head) < HEAD_BYTES and (block := read_now(stream, HEAD_BYTES)):
        head += block
    seen = io.BytesIO(head)
    return head, buffered_stream(lambda size: seen.read(size) or read_now(stream, size))
