"""The records that the model worker follows, of the log on this machine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.api import clock
from trustwatch.api.models import worker
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind

START_MS = 1_764_547_200_000


def write(log: EventLog, count: int) -> None:
    """Append ticks, each a segment of its own."""
    for number in range(count):
        log.append([Record(RecordKind.TICK, 0, START_MS + number, bytes(8))])
    log.sync()


def offsets_of(stream: worker.RecordStream, count: int) -> list[int]:
    offsets: list[int] = []
    while len(offsets) < count:
        batch = stream.poll()
        assert batch is not None
        offsets += range(batch.base_offset, batch.next_offset)
    return offsets


def test_it_goes_back_as_often_as_it_is_told(tmp_path: Path) -> None:
    """To the oldest record that is kept then; what is written meanwhile comes, too."""
    with (
        EventLog(tmp_path / "log", segment_bytes=1) as log,
        closing(worker.RecordStream(Settings(data_dir=tmp_path))) as stream,
    ):
        write(log, 20)
        assert not stream.multi_partition
        assert stream.rewind(START_MS) == {0: 0}
        assert offsets_of(stream, 20) == list(range(20))
        write(log, 5)
        assert offsets_of(stream, 5) == list(range(20, 25))
        assert stream.rewind(START_MS + 24) == {0: 0}
        assert offsets_of(stream, 25) == list(range(25))
        log.drop_before(10, 0, START_MS + 60_000)
        assert stream.rewind(START_MS) == {0: 10}
        assert offsets_of(stream, 15) == list(range(10, 25))


def test_it_is_caught_up_once_it_has_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, it is not; then ends are looked up again, and not more often than every few seconds."""
    now = 1_000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    with (
        EventLog(tmp_path / "log", segment_bytes=1) as log,
        closing(worker.RecordStream(Settings(data_dir=tmp_path))) as stream,
    ):
        write(log, 3)
        stream.rewind(START_MS)
        assert not stream.is_caught_up()
        offsets_of(stream, 3)
        assert stream.is_caught_up()
        assert not stream.is_caught_up()
        now += worker.END_OFFSETS_EVERY_S
        write(log, 1)
        assert stream.is_caught_up()
        now += worker.END_OFFSETS_EVERY_S
        assert not stream.is_caught_up()
        offsets_of(stream, 1)
        assert stream.is_caught_up()
