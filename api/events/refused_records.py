"""Refused records of a body, as dead letters: what surrounds several of them is kept once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.source import Record

from .admission import MAX_DEAD_LETTER_BYTES, dead_letter_record


class RefusedLetter(NamedTuple):
    """A dead letter that is complete."""

    record: Record  # for the log
    letter_id: str  # its id
    raw: bytes  # what was refused, whole
    reason: str  # why, of the first record in it
    path: str  # likewise
    records: int  # how many were refused


class _OpenLetter:
    """A letter that may take further records with the same surroundings."""

    def __init__(self, first: RawRecord, letter_id: str, reason: str, path: str, *, repeated: bool) -> None:
        self.letter_id, self._reason, self._path = letter_id, reason, path
        self._surroundings = first.enclosure and first.enclosure.surroundings
        self._held, self._refused, self._bytes, self._short = [first], 1, _length(first), repeated
        if self._surroundings is not None:
            self._short = repeated or self._surroundings.length(short=False) > MAX_DEAD_LETTER_BYTES // 2
            self._bytes += self._surroundings.length(short=self._short)

    def take(self, raw_record: RawRecord) -> bool:
        """Add a record; returns False if it finds no room."""
        if raw_record.raw is not self._held[-1].raw:
            self._bytes += 1 + _length(raw_record)
            if self._bytes > MAX_DEAD_LETTER_BYTES:
                return False
            self._held.append(raw_record)
        self._refused += 1
        return True

    def close(self, now_ms: int, source: str) -> RefusedLetter:
        """Return the letter as it is logged."""
        reason, path, around = self._reason, self._path, self._surroundings
        raw = self._held[0].raw if around is None else around.enclose(self._held, short=self._short)
        if self._refused > 1:
            reason = f"{reason} (the first of {self._refused} refused records in this letter)"
        record = dead_letter_record(self.letter_id, now_ms, source, reason, path, raw)
        return RefusedLetter(record, self.letter_id, raw, reason, path, self._refused)


def _length(record: RawRecord) -> int:
    return len(record.raw) + (0 if record.enclosure is None else len(record.enclosure.before + record.enclosure.after))


@dataclass(eq=False, repr=False)
class RefusedRecords:
    """Collects them. Records that came in one enclosing record, or in the same surroundings, share letters."""

    now_ms: int
    source: str
    letter_id: Callable[[int], str]  # id of the letter whose first record is at a place of the body

    def __post_init__(self) -> None:
        self._letters: list[_OpenLetter] = []
        self._open: dict[int, _OpenLetter] = {}  # by identity of what is shared, which the letter holds

    def add(self, raw_record: RawRecord, error: MalformedEvent | SourceNotAllowed, index: int) -> str:
        """Keep a record; returns the id of the letter that holds it."""
        shared = id(raw_record.raw if raw_record.enclosure is None else raw_record.enclosure.surroundings)
        letter = self._open.get(shared)
        if letter is None or not letter.take(raw_record):
            repeated = letter is not None
            letter_id = self.letter_id(index)
            letter = _OpenLetter(raw_record, letter_id, error.reason, error.path, repeated=repeated)
            self._open[shared] = letter
            self._letters.append(letter)
        return letter.letter_id

    def letters(self) -> list[RefusedLetter]:
        """The letters, in the order of their first records."""
        return [letter.close(self.now_ms, self.source) for letter in self._letters]
