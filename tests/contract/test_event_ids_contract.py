"""Event ids of the last records, on both databases: the next owner has its duplicate window from them."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from trustwatch.ingest.errors import Fenced
from trustwatch.scoring.records.commits import Commit, EventIdRun, Position
from trustwatch.scoring.store.sql_schema import EVENT_IDS
from trustwatch.scoring.store.sql_store import SqlStore


def ids(first: int, end: int) -> bytes:
    """Of consecutive records; each tells its offset, and what does not fit into a signed number."""
    return b"".join((2**64 - 1 - offset).to_bytes(8, "little") for offset in range(first, end))


def commit(store: SqlStore, end: int, partition: int = 0, needed_from: int = 0, *, with_ids: bool = True) -> None:
    at = store.partitions.position(partition)
    at = store.partitions.claim(partition) if at.epoch == 0 else at
    run = EventIdRun(at.offset, ids(at.offset, end)) if with_ids else None
    new = Position(partition, at.epoch, end)
    store.commit(Commit(at, new, [], [], [], [], event_ids=run, event_ids_needed_from=needed_from))


def test_ids_of_commits_are_one_run(store: SqlStore) -> None:
    """As far as they are asked for; each partition has its own."""
    for end in (10, 11, 300, 420):
        commit(store, end)
    commit(store, 50, partition=1)
    assert store.event_ids.load(0, 0, 420) == EventIdRun(0, ids(0, 420))
    assert store.event_ids.load(0, 10, 420) == EventIdRun(10, ids(10, 420))
    assert store.event_ids.load(0, 299, 420) == EventIdRun(299, ids(299, 420))
    assert store.event_ids.load(1, 0, 50) == EventIdRun(0, ids(0, 50))
    assert store.event_ids.load(2, 0, 50) == EventIdRun(50, b"")
    assert store.event_ids.load(0, 420, 420) == EventIdRun(420, b"")


def test_what_is_behind_a_gap_is_left_to_the_log(store: SqlStore) -> None:
    """As after a version that stored none; the last records are missing until they are worth a row."""
    commit(store, 10)
    commit(store, 20, with_ids=False)
    commit(store, 30)
    assert store.event_ids.load(0, 0, 30) == EventIdRun(20, ids(20, 30))
    commit(store, 40, with_ids=False)
    assert store.event_ids.load(0, 0, 40) == EventIdRun(20, ids(20, 30))
    assert store.event_ids.load(0, 30, 40) == EventIdRun(40, b"")


def test_what_no_window_needs_goes(store: SqlStore) -> None:
    """Whole runs; other partitions keep theirs."""
    commit(store, 10)
    commit(store, 10, partition=1)
    commit(store, 20)
    commit(store, 30, needed_from=15)
    assert store.event_ids.load(0, 0, 30) == EventIdRun(10, ids(10, 30))
    assert store.event_ids.load(1, 0, 10).first_offset == 0


def test_a_damaged_row_is_read_from_the_log_and_replaced(store: SqlStore, capsys: pytest.CaptureFixture[str]) -> None:
    """It never counts as ids; a run that comes again takes its place."""
    for end in (10, 20, 30):
        commit(store, end)
    damaged = update(EVENT_IDS).where(EVENT_IDS.c.first_offset == 10).values(hashes=b"short")
    with store.database.write() as connection:
        connection.execute(damaged)
    assert store.event_ids.load(0, 0, 30) == EventIdRun(20, ids(20, 30))
    assert "damaged" in capsys.readouterr().out
    at = store.partitions.position(0)
    again = EventIdRun(0, ids(0, 40))
    store.commit(Commit(at, Position(0, at.epoch, 40), [], [], [], [], event_ids=again))
    assert store.event_ids.load(0, 0, 40) == again
    with store.database.read() as connection:
        assert len(connection.execute(select(EVENT_IDS)).all()) == 1


def test_a_position_that_is_set_forgets_them(store: SqlStore) -> None:
    """Offsets mean other records from then on."""
    commit(store, 10)
    commit(store, 20)
    store.partitions.set_position(0, 5)
    assert store.event_ids.load(0, 0, 5) == EventIdRun(5, b"")
    commit(store, 20)
    assert store.event_ids.load(0, 0, 20) == EventIdRun(5, ids(5, 20))


def test_a_worker_that_was_fenced_leaves_none(store: SqlStore) -> None:
    """The next owner's are the only ones."""
    commit(store, 10)
    old = store.partitions.position(0)
    store.partitions.claim(0)
    late = Commit(old, Position(0, old.epoch, 20), [], [], [], [], event_ids=EventIdRun(10, bytes(80)))
    with pytest.raises(Fenced):
        store.commit(late)
    assert store.event_ids.load(0, 0, 10) == EventIdRun(0, ids(0, 10))
