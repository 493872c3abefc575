"""Records of files to send to a service: decompressed, split, and grouped into batches for requests."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.file_source import FileSource, UnreadableFile
from trustwatch.ingest.formats.format_registry import create_parser, most_common_format, parse_native
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.history.conversion import (
    MAPPING,
    NATIVE,
    FormatChoice,
    FormattedFile,
    HistoryConverter,
    UnknownFormat,
    choose_format,
    unknown_format,
)
from trustwatch.ingest.history.json_cutting import NO_WRAPPER
from trustwatch.ingest.history.record_files import is_lines, peek_line, recognise_file, require_files
from trustwatch.ingest.history.time_order import Disorder, TimeReader, in_time_order, native_microseconds
from trustwatch.ingest.source import as_one_line

from ..cli.history_input import STDIN_NAME, copied_to_file, is_disordered, report_malformed
from ..cli.terminal import byte_progress, print_message

INGEST_BATCH_RECORDS = 500
INGEST_BATCH_BYTES = 8 * 1024 * 1024  # Bytes of one request, unless one record alone has more

HISTORY_AGE = timedelta(days=1)
"""Minimum age of the first event of a history: events from gateways arrive within hours."""

MAX_LOOKED_AT = 20  # Records of the first batch that are looked at for a time


class RecordPlace(NamedTuple):
    """Location of a record, as messages name it."""

    file: str
    number: int


class OutgoingBatch(NamedTuple):
    """Records of one request."""

    lines: list[bytes]  # the records
    record_format: str | None  # in which the service is to take them; None: as the caller's
    # of the records, if they were sorted by time; None = order of the files
    places: list[RecordPlace] | None = None


def history_advice(batch: OutgoingBatch, now: datetime) -> str | None:
    """Return advice if a history, whose first event is days old, is about to be sent, or None."""
    at = next((event.time for event in _parsed_events(batch)), None)
    if at is None or (age := now - at) < HISTORY_AGE:
        return None
    return (
        f"events begin {age.days} {'day' if age.days == 1 else 'days'} ago ({at:%Y-%m-%d %H:%M} UTC): levels will be "
        "of then. Do not send again what the model has learned from. A service without a model learns from a history; "
        "otherwise use `trustwatch train` to learn from it, and `trustwatch replay` and `backtest` to judge it"
    )


def _parsed_events(batch: OutgoingBatch) -> Iterator[NativeEvent]:
    """Return the events of a batch that the client can parse, which excludes formats in the caller's settings."""
    if batch.record_format == MAPPING:
        return
    parse = create_parser(batch.record_format or NATIVE)
    for line in batch.lines[:MAX_LOOKED_AT]:
        try:
            for record in parse(line, {}).records:
                yield decode_history_event(record.raw if record.to_native is None else record.to_native())[0]
        except MalformedEvent:
            continue  # the service reports what is wrong with it


@dataclass(eq=False, repr=False)
class OutgoingRecords:
    """Reads records from files and prepares them for sending.

    The service maps them by the caller's settings; here they are only decompressed and split. Mappings that only
    this side has (a mapping file, the columns of a table) are applied here, and native events are sent.
    """

    converter: HistoryConverter

    def __post_init__(self) -> None:
        self.unknown: UnknownFormat | None = None
        """Error of a file whose format is not known; None = there is none."""

    def batches(self, files: list[Path], stack: ExitStack) -> Iterator[OutgoingBatch]:
        """Yield the records of files or folders in order. `-` alone is standard input. *stack* removes its copy."""
        if [str(path) for path in files] == ["-"]:
            head, pipe = peek_line(sys.stdin.buffer)
            wrapper = NO_WRAPPER if self.converter.choice.name == MAPPING else None
            if self.converter.choice.mapping is None and is_lines(head, wrapper):
                yield from _polled(FileSource(pipe), self.converter.choice.name or self._format_of(head))
                return
            named = [(copied_to_file(pipe, stack), STDIN_NAME)]
        else:
            named = [(path, str(path)) for path in files]
        formatted_files = [formatted for path, name in named for formatted in self._find(path, name)]
        self.converter.tell_formats([formatted for formatted in formatted_files if formatted.format_name != NATIVE])
        here = [formatted for formatted in formatted_files if self._is_mapped_here(formatted)]
        sent = [formatted for formatted in formatted_files if not self._is_mapped_here(formatted)]
        if here:
            records = ((RecordPlace(*self.converter.place), event) for event in self.converter.convert(here))
            yield from self._sorted_batches(records, NATIVE, native_microseconds)
        for name, group in groupby(
            sent, lambda one: self.converter.choice.name or (None if one.format_name == NATIVE else one.format_name)
        ):
            yield from self._batches_of_group(list(group), name)

    def _batches_of_group(self, files: list[FormattedFile], name: str | None) -> Iterator[OutgoingBatch]:
        """Yield batches from files of one format, in time order as far as the client can parse it."""
        paths = [formatted.file.path for formatted in files]
        is_in_order = False
        if name is None and all(map(_is_plain, files)):
            with suppress(UnreadableFile):
                is_in_order = not is_disordered(FileSource(paths))
        if name == MAPPING or self.unknown is not None or is_in_order:
            for formatted in files:
                if _is_plain(formatted):
                    path = formatted.file.path
                    with byte_progress("sending", FileSource([path]).total_bytes) as progress:
                        yield from _polled(FileSource([path], progress=progress), name)
                else:
                    yield from _batched((record for _, record in self._cut_records(formatted)), name)
        else:
            failures: list[UnreadableFile] = []
            yield from self._sorted_batches(self._readable_records(files, failures), name, _time_reader(name))
            if failures:
                raise failures[0]

    def _readable_records(
        self, files: list[FormattedFile], failures: list[UnreadableFile]
    ) -> Iterator[tuple[RecordPlace, bytes]]:
        """Yield records up to where files are damaged, then report the first damage."""
        for formatted in files:
            try:
                for number, record in self._cut_records(formatted):
                    yield RecordPlace(formatted.file.name, number), record
            except UnreadableFile as error:
                failures.append(error)

    def _sorted_batches(
        self, records: Iterable[tuple[RecordPlace, bytes]], name: str | None, read_time: TimeReader
    ) -> Iterator[OutgoingBatch]:
        files: dict[str, int] = {}
        disorder = Disorder(lambda line: read_time(line.split(b" ", 2)[2]))
        marked = (
            b"%d %d %s" % (files.setdefault(place.file, len(files)), place.number, record) for place, record in records
        )
        for number, batch in enumerate(_batched(in_time_order(marked, disorder=disorder), name)):
            if number == 0 and disorder.late:
                self.converter.tell(f"{disorder.describe()}; they are sent in the order of time")
            parts, names = [line.split(b" ", 2) for line in batch.lines], list(files)
            places = [RecordPlace(names[int(file)], int(at)) for file, at, _ in parts]
            yield batch._replace(lines=[line for _, _, line in parts], places=places)

    def _find(self, path: Path, name: str) -> list[FormattedFile]:
        choice = self.converter.choice
        if choice.name == MAPPING and choice.mapping is None:  # that of the caller's settings, which is not known here
            files = require_files(path) if path.is_dir() else [path]
            return [
                FormattedFile(recognise_file(file, wrapper=NO_WRAPPER), MAPPING, parse_native, False) for file in files
            ]
        try:
            return self.converter.find(path, name)
        except UnknownFormat as error:
            if path.is_dir() or (file := recognise_file(path, name)).cutting != "lines":
                raise
            self.unknown = error
            return [choose_format(file, FormatChoice(NATIVE))]

    def _is_mapped_here(self, formatted: FormattedFile) -> bool:
        is_table = formatted.file.cutting in ("csv", "parquet")
        return self.converter.choice.mapping is not None or (is_table and formatted.format_name == NATIVE)

    def _format_of(self, head: bytes) -> str | None:
        """Detect the format from the beginning of a stream. None means the caller's format."""
        lines = [line for line in head.split(b"\n") if line.strip()]
        name = most_common_format(lines)
        if name is None and lines:
            self.unknown = unknown_format(STDIN_NAME, self.converter.choice, lines[0])
        if name in (None, NATIVE):
            return None
        print_message(f"format: {name} (detected)")
        return name

    def _cut_records(self, formatted: FormattedFile) -> Iterator[tuple[int, bytes]]:
        for number, record in enumerate(formatted.file.records(), 1):
            if isinstance(record, MalformedEvent):
                self.converter.malformed += 1
                report_malformed(self.converter.malformed, number - 1, record.path, record.reason)
            else:
                yield number, as_one_line(record)


def _is_plain(formatted: FormattedFile) -> bool:
    return formatted.file.cutting == "lines" and formatted.file.packing in ("none", "gzip")


def _time_reader(name: str | None) -> TimeReader:
    """Return a function that reads the time of a record's first event, or None without events."""
    if name in (None, NATIVE):
        return native_microseconds
    parse = create_parser(name)

    def read(record: bytes) -> int | None:
        try:
            raw = parse(record, {}).records[0]
            return native_microseconds(raw.raw if raw.to_native is None else raw.to_native())
        except (MalformedEvent, IndexError):
            return None

    return read


def _polled(source: FileSource, record_format: str | None) -> Iterator[OutgoingBatch]:
    while (batch := source.poll(INGEST_BATCH_RECORDS, 0.0)) is not None:
        for lines in _bounded([record.payload for record in batch.records]):
            yield OutgoingBatch(lines, record_format)


def _batched(lines: Iterable[bytes], record_format: str | None) -> Iterator[OutgoingBatch]:
    waiting = iter(lines)
    while part := list(islice(waiting, INGEST_BATCH_RECORDS)):
        for batch in _bounded(part):
            yield OutgoingBatch(batch, record_format)


def _bounded(lines: list[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > INGEST_BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part
