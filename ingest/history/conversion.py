"""Records of files as native events: which format each file has, and what became of its records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import ConfigError, MalformedEvent
from ..file_source import ByteProgress
from ..formats.expressions import MEMBER_KINDS
from ..formats.format_registry import (
    MEDIA_TYPE_FORMATS,
    create_parser,
    describe_record,
    export_advice,
    most_common_format,
    record_format,
)
from ..formats.history_decoding import RecordOwner, decode_history_event, native_history_record
from ..formats.raw_records import FormatParser, ParsedRecords, ParserBudget
from ..formats.record_mapping import ATTRIBUTE_PREFIX, REQUIRED_MEMBERS, MappingSpec, RecordMapping, mapping_spec
from ..settings_reading import read_yaml
from ..source import as_one_line
from .json_cutting import NO_WRAPPER, Wrapper
from .record_files import RecordFile, is_lines, recognise_file, require_files

DETECTION_RECORDS = 20
MAX_SHOWN_PROBLEMS = 5
NATIVE, MAPPING = "native", "mapping"


class FormatChoice(NamedTuple):
    """What the operator states about the records."""

    name: str | None = None  # of a format; None = detected from the records
    mapping: MappingSpec | None = None  # complete, or changes to that of the format; None = none
    mapping_file: Path | None = None  # location of the mapping
    owner: RecordOwner = RecordOwner()  # of events whose records do not say it

    @property
    def is_open(self) -> bool:
        """True if the operator states neither format nor mapping."""
        return self.name is None and self.mapping is None


class UnknownFormat(ConfigError):
    """Records show no format that is known, and none was given."""

    code = "unknown_format"

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(f"{seen}. {advice}")
        self.seen = seen


class FormattedFile(NamedTuple):
    """A file whose format is known."""

    file: RecordFile  # recognised
    format_name: str  # of its records
    parser: FormatParser  # of that format
    detected: bool  # whether it was detected from the records
    owner: RecordOwner = RecordOwner()  # of events whose records do not say it

    @property
    def is_native_lines(self) -> bool:
        """True if the file can be read as it is: native events, one a line, plain or gzip."""
        return self.format_name == NATIVE and self.file.cutting == "lines" and self.file.packing in ("none", "gzip")


def choose_format(file: RecordFile, choice: FormatChoice) -> FormattedFile:
    """Choose the format; an empty file counts as native. Raises UnknownFormat, ConfigError or UnreadableFile."""
    records = [record for record in islice(file.records(), DETECTION_RECORDS) if isinstance(record, bytes)]
    name, detected = choice.name, False
    if name is None and choice.mapping is not None and not _missing_members(choice.mapping):
        name = MAPPING
    if name is None:
        name, detected = most_common_format(records), True
        if name is None and records:
            raise unknown_format(file.name, choice, records[0], file.argument)
    name = name or NATIVE
    is_table = file.cutting in ("csv", "parquet")
    try:
        parser = _NativeTableParser() if is_table and name == NATIVE else create_parser(name, choice.mapping)
    except ConfigError as error:
        where = "" if choice.mapping_file is None else f"{choice.mapping_file}: "
        raise ConfigError(f"{where}{error}") from None
    if isinstance(parser, RecordMapping) and file.cutting in ("lines", "json"):
        wrapper = Wrapper((parser.wrapper,), parser.unwrap) if parser.wrapper else NO_WRAPPER
        file = recognise_file(file.path, file.name, wrapper)  # only the mapping determines what is opened
        if file.cutting == "json":
            parser = parser.without_wrapper()  # the file is cut once
    return FormattedFile(file, name, parser, detected, choice.owner)


def _missing_members(mapping: MappingSpec) -> list[str]:
    return [name for name in REQUIRED_MEMBERS if not mapping.members.get(name)]


def unknown_format(name: str, choice: FormatChoice, record: bytes, argument: str = "") -> UnknownFormat:
    """Return the error for records of an unknown format: what the first one looks like, and what to do.

    *argument* is the argument with which a command reads them again, by default *name*.
    """
    seen = f"{name}: the format is not known; record 1 is {describe_record(record)}"
    if choice.mapping is not None:
        missing = ", ".join(f"`{name}`" for name in _missing_members(choice.mapping))
        return UnknownFormat(
            seen,
            f"The mapping {choice.mapping_file} has no {missing}: complete it, or name the format whose mapping it"
            " changes (--format)",
        )
    advice = export_advice(record)
    if advice is not None:
        return UnknownFormat(seen, f"{advice[:1].upper()}{advice[1:]}")
    return UnknownFormat(
        seen,
        "Name it (--format envoy, keycloak, …), or say in a file what is what (--mapping FILE);"
        f" `trustwatch mapping try FILE {argument or name}` shows what the file makes of it",
    )


class _NativeTableParser:
    """Parser of tables whose columns are named as the members of native events; their cells are texts.

    Empty cells are left out of a record, so attributes are known once a row has them.
    """

    def __init__(self) -> None:
        self._attributes: set[str] = set()
        self._mapping = self._make_mapping()

    def _make_mapping(self) -> RecordMapping:
        attributes = {name: json.dumps(name) for name in sorted(self._attributes)}
        return RecordMapping(MappingSpec(members={name: name for name in MEMBER_KINDS} | attributes))

    def __call__(
        self, value: bytes, headers: Mapping[str, str], budget: ParserBudget | None = None, /
    ) -> ParsedRecords:
        """Parse one row. Headers are not read."""
        names = {name for name in msgspec.json.decode(value) if name.startswith(ATTRIBUTE_PREFIX)} - {ATTRIBUTE_PREFIX}
        if not names <= self._attributes:
            self._attributes |= names
            self._mapping = self._make_mapping()
        return self._mapping(value, headers, budget)


class HistoryConverter:
    """Turns files into native events, and counts other records."""

    def __init__(self, choice: FormatChoice, tell: Callable[[str], None]) -> None:
        self.choice = choice
        self.events = 0
        self.malformed = 0
        self.skipped = 0
        self.paths: list[Path] = []
        """Files that were found."""
        self.place = "", 0
        """File and number of the record that the last event came from."""
        self.tell = tell

    def is_native(self, head: bytes) -> bool:
        """Return whether a stream with this beginning needs no conversion: native events, one a line, or nothing."""
        if not self.choice.is_open:
            return self.choice.mapping is None and self.choice.name == NATIVE
        lines = [line for line in head.split(b"\n")[:DETECTION_RECORDS] if line.strip()]
        return not lines or (is_lines(head) and most_common_format(lines) == NATIVE)

    def find(self, path: Path, name: str | None = None) -> list[FormattedFile]:
        """Return the file at *path*, or the files in that folder.

        In a folder, files of unknown formats are left out and reported, since other programs may write there. Raises
        ConfigError.
        """
        if not path.is_dir():
            return [self.choose(recognise_file(path, name))]
        formatted_files, left_out = [], []
        for inner in require_files(path):
            try:
                formatted_files.append(self.choose(recognise_file(inner)))
            except UnknownFormat as error:
                left_out.append(error)
        if not formatted_files:
            raise left_out[0]
        for unknown in left_out[:MAX_SHOWN_PROBLEMS]:
            self.tell(f"left out: {unknown.seen}")
        if left_out:
            self.tell(f"{path}: {len(left_out)} of {len(formatted_files) + len(left_out)} files are left out")
        return formatted_files

    def choose(self, file: RecordFile, choice: FormatChoice | None = None) -> FormattedFile:
        """Choose the format of a recognised file. Raises as `choose_format`."""
        formatted = choose_format(file, choice or self.choice)
        self.paths.append(file.path)
        return formatted

    def tell_formats(self, files: Sequence[FormattedFile]) -> None:
        """Report which formats were recognized."""
        counts: dict[str, int] = {}
        for formatted in files:
            if formatted.detected:
                counts[formatted.format_name] = counts.get(formatted.format_name, 0) + 1
        for name, number in counts.items():
            of_several = f", {number} of {len(files)} files" if len(counts) > 1 else ""
            self.tell(f"format: {name} (detected){of_several}")

    def convert(self, files: Sequence[FormattedFile], progress: ByteProgress = lambda _: None) -> Iterator[bytes]:
        """Yield native events of the files, one a line, in the order of the records; report and count the others.

        Raises ConfigError or UnreadableFile.
        """
        before = self.events, self.skipped, self.malformed
        done = 0
        for formatted in files:
            yield from self._events_of(formatted, progress, done)
            done += formatted.file.path.stat().st_size
        events, skipped, malformed = (
            now - then for now, then in zip((self.events, self.skipped, self.malformed), before, strict=True)
        )
        summary = "".join(
            f", {number} {what}"
            for number, what in ((skipped, "skipped (no audit events of an agent)"), (malformed, "malformed"))
            if number
        )
        if not events and (skipped or malformed):
            with_mapping = files[0].format_name not in MEDIA_TYPE_FORMATS
            advice = f"; {self._advice(files[0])}" if with_mapping else ""
            raise ConfigError(f"{_names(files)}: no record became an event{summary}{advice}")
        self.tell(f"read {events} events of {_names(files)}{summary}")

    def native_lines(self, formatted: FormattedFile) -> Iterator[bytes]:
        """Yield the lines of a file of native events as they are; report and count malformed ones by their number.

        Raises UnreadableFile.
        """
        for number, line in enumerate(formatted.file.records(), 1):
            try:
                if isinstance(line, MalformedEvent):
                    raise line
                decode_history_event(line)
            except MalformedEvent as error:
                self._refuse(formatted, number, error, b"")
            else:
                yield line

    def _events_of(self, formatted: FormattedFile, progress: ByteProgress, before: int) -> Iterator[bytes]:
        for number, record in enumerate(formatted.file.records(lambda at: progress(before + at)), 1):
            if isinstance(record, MalformedEvent):
                self._refuse(formatted, number, record, b"")
                continue
            try:
                parsed = formatted.parser(record, {})
            except MalformedEvent as error:
                self._refuse(formatted, number, error, record)
                continue
            if parsed.skipped and record_format(record) not in (None, formatted.format_name):
                self._refuse(formatted, number, MalformedEvent(f"no record of `{formatted.format_name}`"), record)
            else:
                self.skipped += parsed.skipped
            for raw in parsed.records:
                try:
                    native = raw.raw if raw.to_native is None else raw.to_native()
                    event, _ = native_history_record(formatted.owner.fill(native))
                except MalformedEvent as error:
                    self._refuse(formatted, number, error, raw.raw if raw.enclosure is None else b"")
                    continue
                self.events += 1
                self.place = formatted.file.name, number
                yield as_one_line(event)

    def _refuse(self, formatted: FormattedFile, number: int, error: MalformedEvent, raw: bytes) -> None:
        self.malformed += 1
        if self.malformed <= MAX_SHOWN_PROBLEMS:
            other = record_format(raw)
            seems = f"; it looks like `{other}`" if other not in (None, formatted.format_name) else ""
            self.tell(f"{formatted.file.name}, record {number}: {error.reason} - at `{error.path}`{seems}")
        if self.malformed == 1 and formatted.format_name not in MEDIA_TYPE_FORMATS:
            self.tell(self._advice(formatted))
        if self.malformed == MAX_SHOWN_PROBLEMS:
            self.tell("further records that are not events are only counted")

    def _advice(self, formatted: FormattedFile) -> str:
        mapping = self.choice.mapping_file or formatted.format_name
        also = "" if self.choice.mapping_file is None or self.choice.name is None else f" --format {self.choice.name}"
        return (
            f"`trustwatch mapping try {mapping} {formatted.file.argument}{also}` shows member by member what is missing"
        )


def total_bytes(files: Sequence[FormattedFile]) -> int:
    """Size of the files on disk."""
    return sum(formatted.file.path.stat().st_size for formatted in files)


def _names(files: Sequence[FormattedFile]) -> str:
    return files[0].file.name if len(files) == 1 else f"{len(files)} files"


def read_mapping(path: Path) -> MappingSpec:
    """Read a mapping; its expressions are not compiled yet. Raises ConfigError, which names file and member."""
    raw = read_yaml(path)
    if set(raw) == {"mapping"}:
        raw = raw["mapping"]
    try:
        return mapping_spec(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
