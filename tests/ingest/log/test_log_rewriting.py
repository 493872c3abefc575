"""Segments of the log written anew: offsets stay, readers go on, and a kill at any step leaves a whole log."""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from trustwatch.ingest.log.event_log import EventLog, changed_records, closed_segments, count_erased
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.record_erasure import erased_record
from trustwatch.ingest.source import Record, RecordKind

from ...support.deadly_steps import DeadlyStep, exit_code
from ...support.log_records import read_records
from ...support.nightly import size


def record(number: int) -> Record:
    name = "canary" if number % 3 == 0 else "other"
    return Record(RecordKind.EVENT, number + 1, 1_000 + number, f"{name}-{number}".encode() * 5)


def without_canary(old: Record) -> Record:
    return erased_record(old) if b"canary" in old.payload else old


def filled(directory: Path, records: int = 60) -> EventLog:
    log = EventLog(directory, segment_bytes=1_000)
    for first in range(0, records, 5):
        log.append([record(number) for number in range(first, first + 5)])
        log.sync()
    return log


def rewrite(log: EventLog, end: int) -> tuple[int, int]:
    """Rewrite every closed segment; returns the numbers of records removed and changed."""
    total = Counter(removed=0, changed=0)
    for base in closed_segments(log.directory, end):
        changes = changed_records(log.directory, base, end, without_canary)
        if changes:
            assert log.replace_records(base, changes)
            removed, changed = count_erased(changes)
            total.update(removed=removed, changed=changed)
    log.clean()
    return total["removed"], total["changed"]


def test_records_go_and_offsets_stay(tmp_path: Path) -> None:
    """Erased records keep place, arrival and id hash; all others are byte-equal; nothing of the erased is on disk."""
    with filled(tmp_path) as log:
        end = log.roll()
        found = rewrite(log, end)
        kept = read_records(tmp_path)

        assert (end, found) == (60, (20, 0))
        assert [one.id_hash for one in kept] == list(range(1, 61))
        assert [one for one in kept if one.kind == RecordKind.EVENT] == [record(n) for n in range(60) if n % 3]
        assert all(b"canary" not in path.read_bytes() for path in tmp_path.iterdir())
        assert rewrite(log, end) == (0, 0)
        with LogReader(tmp_path) as reader:
            assert reader.read_id_hashes(0, 0, 60).tolist() == list(range(1, 61))
    EventLog(tmp_path).close()  # check sums of all segments fit


def test_records_behind_the_end_stay(tmp_path: Path) -> None:
    """What came after the erasure began is not looked at, and the segment that is written is left alone."""
    with filled(tmp_path) as log:
        rewrite(log, 30)
        kept = read_records(tmp_path)
        active = closed_segments(tmp_path, 1_000)[-1]

        assert {one.kind for one in kept[:30:3]} == {RecordKind.ERASED}
        assert {one.kind for one in kept[30:]} == {RecordKind.EVENT}
        with pytest.raises(ValueError, match="is being written"):
            log.replace_records(log._database.base, {})
        assert active < log._database.base


def test_a_reader_goes_on_in_a_segment_that_is_replaced(tmp_path: Path) -> None:
    with filled(tmp_path) as log, LogReader(tmp_path) as reader:
        reader.seek(0, 0)
        first = reader.poll(8, 0.0)
        rewrite(log, log.roll())
        offsets = [] if first is None else [record.id_hash for record in first.records]
        while (batch := reader.poll(8, 0.0)) is not None:
            offsets += [record.id_hash for record in batch.records]

        assert offsets == list(range(1, 61))


def test_a_segment_that_retention_dropped_stays_dropped(tmp_path: Path) -> None:
    """Otherwise the log would have a hole behind it."""
    with filled(tmp_path) as log:
        end = log.roll()
        base = closed_segments(tmp_path, end)[0]
        changes = changed_records(tmp_path, base, end, without_canary)
        log.drop_before(end, 0, 10**9)

        assert changes
        assert log.replace_records(base, changes) is False
        assert changed_records(tmp_path, base, end, without_canary) == {}


@pytest.mark.parametrize("seed", range(size(each_push=2, nightly=8)))
def test_nothing_of_what_went_is_in_the_files(tmp_path: Path, seed: int) -> None:
    """Records of all sizes, erasures and retention in turns: no byte of one that went is in a page or in the WAL.

    Rows that are changed or deleted one by one would leave copies in pages that SQLite balances.
    """
    dice = random.Random(seed)
    largest = dice.choice((300, 900, 3_000, 9_000))
    live: set[int] = set()
    with EventLog(tmp_path, segment_bytes=60 * largest) as log:
        for step in range(6):
            for _ in range(10):
                first = log.next_offset
                log.append([sized(first + n, dice.randrange(60, largest)) for n in range(40)])
                log.sync()
                live |= set(range(first, first + 40))
            gone = set(dice.sample(sorted(live), len(live) // 5))
            end = log.roll()
            for base in closed_segments(tmp_path, end):
                changes = changed_records(tmp_path, base, end, partial(without, gone))
                if changes:
                    log.replace_records(base, changes)
            live -= gone
            if step % 2:
                log.drop_before(log.first_offset + 500, 0, 10**12)
            live = {number for number in live if number >= log.first_offset}
            log.clean()
            content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            assert {int(found) for found in re.findall(rb"<(\d{6})>", content)} == live


def without(gone: set[int], old: Record) -> Record:
    return erased_record(old) if old.id_hash - 1 in gone else old


def sized(number: int, size: int) -> Record:
    return Record(RecordKind.EVENT, number + 1, 1_000 + number, b"<%06d>" % number + b"x" * size)


def rewrite_until_killed(folder: Path, number: int) -> None:
    """Only what the rewriting does is counted, not what opening the log does."""
    log = EventLog(folder, segment_bytes=1_000)
    log._database.connection.set_trace_callback(DeadlyStep(number).count)
    rewrite(log, log.roll())


def test_kill_at_every_step(tmp_path: Path) -> None:
    """Before each statement: the log is whole, nothing else is lost, and the next try ends the work."""
    for step in range(1, 200):
        folder = tmp_path / str(step)
        filled(folder, 30).close()
        status = exit_code(rewrite_until_killed, folder, step)
        with EventLog(folder) as log:
            kept = read_records(folder)
            assert [one.id_hash for one in kept] == list(range(1, 31))
            assert [one for one in kept if one.id_hash % 3 != 1] == [record(n) for n in range(30) if n % 3]
            rewrite(log, log.roll())
            assert all(b"canary" not in path.read_bytes() for path in folder.iterdir())
        if status == 0:
            assert step > 8
            return
        assert status == -signal.SIGKILL
    raise AssertionError("the work never ended")
