"""Formats of several kinds of records, each with a mapping of its own, behind one way of taking values apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from functools import partial
from typing import Any, NamedTuple

from ..errors import MalformedEvent
from .mapping import MappingSpec, RecordMapping
from .parcel import ParsedRecords, RawRecord, rejected_record


class UnpackedRecord(NamedTuple):
    """One record of a value.

    Attributes:
        raw: enough to try it again; its identity too, where the mapping gives it none.
        record: for the mapping of its kind; None where it is no audit event by design, the error where it is broken.
        kind: which mapping.
    """

    raw: bytes
    record: dict[str, Any] | MalformedEvent | None
    kind: str = ""


RecordUnpacker = Callable[[bytes], Iterable[UnpackedRecord]]
"""Takes a value apart. Raises MalformedEvent where it can not be taken apart at all."""


class MultiKindParser:
    """A parser: takes values apart, and maps each record as its kind says.

    Args:
        unpack: how.
        specs: complete mappings by kind; see `MappingSpec.over`.

    Raises:
        ConfigError: a mapping is wrong.
    """

    def __init__(self, unpack: RecordUnpacker, specs: MappingType[str, MappingSpec]) -> None:
        self._unpack = unpack
        self._mappings = {kind: RecordMapping(spec) for kind, spec in specs.items()}

    def __call__(self, value: bytes, _headers: MappingType[str, str]) -> ParsedRecords:
        """Records of a value. Headers are not read."""
        parcels, skipped = [], 0
        for raw, record, kind in self._unpack(value):
            native = self._to_raw_record(raw, record, kind)
            if native is None:
                skipped += 1
            else:
                parcels.append(native)
        return ParsedRecords(parcels, skipped)

    def _to_raw_record(self, raw: bytes, record: dict[str, Any] | MalformedEvent | None, kind: str) -> RawRecord | None:
        if isinstance(record, MalformedEvent):
            return rejected_record(raw, record)
        try:
            native = None if record is None else self._mappings[kind].to_native_event(record, raw)
        except MalformedEvent as error:
            return rejected_record(raw, error)
        return None if native is None else RawRecord(raw, partial(bytes, native))
