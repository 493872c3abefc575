"""Snapshots as both databases know them, and what a look at rows and their copies needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.errors import Fenced
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.records.agent_pages import StateFormat
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.snapshots import Snapshot
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

FORMAT = StateFormat("v2:r2", 5, 3)
KEYS = [1, 7, 2**63 - 1, 2**63, 2**64 - 2]


def row(key: int, state_version: str = "v2:r2", partition_of: str = "acme") -> AgentRow:
    name = AgentName(key, partition_of, "https://as", f"agent-{key}")
    numbers = (1, 0.5, 0.25, 0.125, 1, 2, 3, 0, 5)
    texts = ("", b"[]", "")
    return AgentRow(name, "X", *numbers, *texts, features=b"12345", risk=b"678", state_version=state_version)


def commit(store: SqlStore, rows: list[AgentRow], partition: int = 0, **more: Any) -> Position:
    at = store.partitions.position(partition)
    at = store.partitions.claim(partition) if at.epoch == 0 else at
    after = Position(partition, at.epoch, at.offset + 10)
    store.commit(Commit(at, after, rows, [], [], [], **more))
    return after


def snapshot(name: str, partition: int = 0, generation: int = 0) -> Snapshot:
    return Snapshot(name, partition, bytes(range(32)), generation, 5, 2**40)


def test_versions_are_those_of_the_commits(store: SqlStore) -> None:
    """Of one partition, by key as an unsigned number; of all agents or of some."""
    commit(store, [row(key) for key in KEYS])
    commit(store, [row(3, partition_of="other")], partition=1)
    at = commit(store, [row(7)])
    versions = store.agents.versions_of_partition(at)
    assert versions.keys.tolist() == KEYS
    assert versions.epochs.tolist() == [at.epoch] * 5
    assert versions.offsets.tolist() == [10, 20, 10, 10, 10]
    assert [column.dtype for column in versions] == [np.uint64, np.int64, np.int64]
    page, some = store.agents.states_of_agents(at, np.array([7, 2**64 - 2, 99, 3], np.uint64), FORMAT)
    assert page.columns is not None and page.columns.keys.tolist() == [2**64 - 2, 7] and page.rows == []
    assert [column.tolist() for column in some] == [[7, 2**64 - 2], [at.epoch] * 2, [20, 10]]


def test_rows_of_another_format_come_as_rows(store: SqlStore) -> None:
    """As a page has them."""
    at = commit(store, [row(1), row(7, "v1:r1"), row(2**63)])
    page, versions = store.agents.states_of_agents(at, np.array([1, 7, 2**63], np.uint64), FORMAT)
    assert page.columns is not None and page.columns.keys.tolist() == [2**63, 1]
    assert page.rows == [row(7, "v1:r1")] and page.last_key is None
    assert versions.keys.tolist() == [1, 7, 2**63]


def test_a_partition_without_agents_has_no_versions(store: SqlStore) -> None:
    """Nor have agents that are not there."""
    at = commit(store, [])
    assert store.agents.versions_of_partition(at).agent_count == 0
    page, versions = store.agents.states_of_agents(at, np.array([5], np.uint64), FORMAT)
    assert page.agent_count == 0 and versions.agent_count == 0


def test_who_lost_the_partition_reads_nothing(store: SqlStore) -> None:
    """And adds no snapshot."""
    at = commit(store, [row(1)])
    store.partitions.claim(0)
    with pytest.raises(Fenced):
        store.agents.versions_of_partition(at)
    with pytest.raises(Fenced):
        store.agents.states_of_agents(at, np.array([1], np.uint64), FORMAT)
    generation = store.snapshots.generation()
    with pytest.raises(Fenced):
        store.snapshots.add(at, snapshot("a", generation=generation))
    assert store.snapshots.count() == 0


def test_snapshots_are_kept_by_partition(store: SqlStore) -> None:
    """What is removed is forgotten, with its secret."""
    at, other = commit(store, []), commit(store, [], partition=1)
    generation = store.snapshots.generation()
    made = [snapshot(name, generation=generation) for name in ("a", "b", "c")]
    assert all(store.snapshots.add(at, one) for one in made)
    assert store.snapshots.add(other, snapshot("d", 1, generation))
    assert store.snapshots.list_of(0) == made and store.snapshots.count() == 4
    store.snapshots.remove(["a", "c", "unknown"])
    store.snapshots.remove([])
    assert store.snapshots.list_of(0) == [made[1]] and store.snapshots.list_of(1) == [snapshot("d", 1, generation)]


def test_what_was_read_before_all_were_forgotten_is_not_added(store: SqlStore) -> None:
    """An erasure has changed rows since: the copies may have the name that it took out."""
    at = commit(store, [])
    before = store.snapshots.generation()
    assert store.snapshots.generation() == before
    assert store.snapshots.add(at, snapshot("a", generation=before))
    assert store.snapshots.forget_all() == 1 and store.snapshots.count() == 0
    assert not store.snapshots.add(at, snapshot("b", generation=before))
    assert store.snapshots.generation() == before + 1
    assert store.snapshots.add(at, snapshot("c", generation=before + 1))
    assert [one.name for one in store.snapshots.list_of(0)] == ["c"]


@pytest.mark.parametrize("kind", ["agent", "principal"])
def test_an_erasure_forgets_all(store: SqlStore, kind: Any) -> None:
    """Reasons of any agent may name who is erased. A count of what is left forgets nothing."""
    at = commit(store, [])
    store.snapshots.add(at, snapshot("a", generation=store.snapshots.generation()))
    issuer = "https://as" if kind == "agent" else ""
    scope = ErasureScope("01E", ErasureSubject(kind, "acme", issuer, "gone", "erased~1"), 5, 1_000)
    assert store.subjects.erase(scope, dry=True).get("snapshots", 0) == 0 and store.snapshots.count() == 1
    assert store.subjects.erase(scope)["snapshots"] == 1
    assert store.snapshots.count() == 0
