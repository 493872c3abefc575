"""The event log on SQLite that ours is measured against keeps what it is given, in both layouts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.sqlite_log import ChunkLog, ChunkReader, RowLog, RowReader
from trustwatch.ingest.source import Record, RecordKind

RECORDS = [
    Record(RecordKind.EVENT, id_hash, 1_780_000_000_000 + id_hash % 7, b"{%d}" % id_hash)
    for id_hash in (1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
]


@pytest.mark.parametrize("log, reader", [(RowLog, RowReader), (ChunkLog, ChunkReader)])
def test_what_is_committed_is_read_in_order(log: type[RowLog], reader: type[RowReader], tmp_path: Path) -> None:
    """Also by a reader that is open already, after the log was closed, and from an offset on."""
    with closing(log(tmp_path)) as written:
        assert written.append(RECORDS[:2]) == 0
        written.sync()
        with closing(reader(tmp_path)) as follower:
            first = follower.poll(100, 1.0)
            assert written.append(RECORDS[2:3]) == 2
            unseen = follower.poll(100, 0.0)
            written.sync()
            second = follower.poll(100, 1.0)
    with closing(log(tmp_path)) as again:
        assert again.append(RECORDS[3:]) == 3
        again.sync()
    with closing(reader(tmp_path)) as later:
        later.seek(0, 2)
        rest = later.poll(100, 1.0)

    assert first is not None and (first.base_offset, first.records) == (0, RECORDS[:2])
    assert unseen is None
    assert second is not None and (second.base_offset, second.records) == (2, RECORDS[2:3])
    assert rest is not None and (rest.base_offset, rest.records) == (2, RECORDS[2:])
