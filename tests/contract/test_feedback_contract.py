"""What every store promises about feedback: what was said, its steps, rules by partition, previews."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.stored_rows import NOW, name, said, step
from trustwatch.ingest.errors import Fenced
from trustwatch.scoring.learning.feedback_preview import feedback_labels
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.feedback import FeedbackPreview, FeedbackStep, PartitionRule
from trustwatch.scoring.store.database import BadCursor
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_store import SqlStore

LATE = NOW + 5
LONG = "https://agents.example/" + "é" * 1000


def holding(number: int, partition: int = 0, **values: Any) -> PartitionRule:
    made = PartitionRule(said(number).rule, partition, 1, 7, -1, 0, 0)
    return msgspec.structs.replace(made, **values)


def commit(store: SqlStore, holdings: list[PartitionRule], partition: int = 0, offset: int = 10) -> None:
    at = store.partitions.position(partition)
    to = Position(partition, at.epoch, at.offset + offset)
    store.commit(Commit(at, to, [], [], [], [], feedback_rules=holdings))


def test_feedback_is_written_once(store: SqlStore) -> None:
    """The same id changes nothing, and what was said comes back as it was."""
    one = said(1, features=None, resource="", agent=name(LONG), unseen=True)
    assert store.feedback.add(one, step(one))
    assert not store.feedback.add(said(1, reason="other"), step(one))

    assert store.feedback.get("F0001") == one
    assert [made.by for made in store.feedback.list_steps("F0001")] == ["ann"]


def test_only_status_and_revocation_ever_change(store: SqlStore) -> None:
    """Compare and set by status; words, scope and steps stay."""
    one = said(1)
    store.feedback.add(one, step(one))
    changed = msgspec.structs.replace(
        one,
        status="revoked",
        revoked_by="bob",
        revoked_ms=NOW + 9,
        revoked_why="wrong",
        updated_ms=NOW + 9,
        reason="rewritten",
        features=None,
        author="mallory",
    )

    assert not store.feedback.update(changed, "active")
    assert store.feedback.update(changed, "adopting", step(one, "revoked"))
    store.feedback.update(changed, "revoked", FeedbackStep("F0001", "revoked", NOW, "mallory", "rewritten"))

    found = store.feedback.get("F0001")
    assert found is not None
    assert (found.status, found.revoked_by, found.revoked_why) == ("revoked", "bob", "wrong")
    assert (found.reason, found.features, found.author) == (one.reason, one.features, one.author)
    assert [(made.action, made.by) for made in store.feedback.list_steps("F0001")] == [
        ("adopted", "ann"),
        ("revoked", "ann"),
    ]


def test_lists_filter_page_and_keep_tenants_apart(store: SqlStore) -> None:
    """Newest first; nobody sees another tenant's."""
    for number in range(5):
        one = said(number, status="active" if number % 2 else "noted", decision_id=f"D{number}")
        store.feedback.add(one, step(one))
    other = said(9, agent=name("bot", "globex"))
    store.feedback.add(other, step(other))

    first = store.feedback.page(("acme",), limit=2)
    rest = store.feedback.page(("acme",), limit=9, cursor=first.next_cursor)
    assert [one.feedback_id for one in first.items + rest.items] == ["F0004", "F0003", "F0002", "F0001", "F0000"]
    assert rest.next_cursor is None
    assert [one.feedback_id for one in store.feedback.page(status="active").items] == ["F0003", "F0001"]
    assert [one.feedback_id for one in store.feedback.page(decision_id="D2").items] == ["F0002"]
    assert [one.feedback_id for one in store.feedback.page(agent=other.agent).items] == ["F0009"]
    assert store.feedback.get("F0009", ("acme",)) is None
    assert [one.feedback_id for one in store.feedback.list_open()] == ["F0001", "F0003", "F0009"]
    with pytest.raises(BadCursor):
        store.feedback.page(cursor="nonsense")


def test_rules_are_written_with_their_partition_or_not_at_all(store: SqlStore) -> None:
    """A worker that lost its partition writes no rule; the newest word stands."""
    store.partitions.claim(0)
    store.partitions.claim(1)
    commit(store, [holding(1), holding(2)])
    commit(store, [holding(1, 1)], partition=1)
    commit(store, [holding(1, until_offset=15, matched=3, last_ms=NOW)])
    stale = Position(0, 1, 5)
    with pytest.raises(Fenced):
        store.commit(Commit(stale, Position(0, 1, 6), [], [], [], [], feedback_rules=[holding(3)]))

    assert store.feedback.rules_of_partition(0) == [holding(1, until_offset=15, matched=3, last_ms=NOW), holding(2)]
    assert [one.partition for one in store.feedback.rules_of_feedback(["F0001", "F0009"])] == [0, 1]


def test_rules_follow_agents_that_move_to_other_partitions(store: SqlStore) -> None:
    """After a change of the number of partitions every rule holds wherever its agents may be."""
    store.partitions.claim(0)
    commit(store, [holding(1, matched=2), holding(2, until_offset=8)])
    store.partitions.claim(1)
    store.partitions.claim(2)
    store.partitions.repartition(lambda _: 1)
    store.partitions.repartition(lambda _: 2)

    assert [one.rule.rule_id for one in store.feedback.rules_of_partition(1)] == ["F0001"]
    assert [(one.matched, one.until_offset) for one in store.feedback.rules_of_partition(2)] == [(0, -1)]
    assert store.feedback.rules_of_partition(0)[0].matched == 2


def test_rules_whose_feedback_is_gone_are_found(store: SqlStore) -> None:
    """Only those that hold still."""
    store.partitions.claim(0)
    one = said(1)
    store.feedback.add(one, step(one))
    commit(store, [holding(1), holding(2), holding(3, until_offset=9)])
    assert [held.rule.rule_id for held in store.feedback.orphaned_rules()] == ["F0002"]


def test_previews_are_overwritten_and_end(store: SqlStore) -> None:
    """Whoever runs one writes how far it is."""
    row = FeedbackPreview("P1", "D1", "acme", "ann", "digest", "running", 0.25, NOW, NOW, "", b"")
    store.feedback.save_preview(row)
    done = msgspec.structs.replace(row, status="done", progress=1.0, result=b"{}", updated_ms=NOW + 5)
    store.feedback.save_preview(done)

    assert store.feedback.get_preview("P1") == done
    assert store.feedback.get_preview("P1", ("globex",)) is None
    assert store.retention.purge(RetentionCutoffs(others_ms=NOW)).feedback == 0
    assert store.retention.purge(RetentionCutoffs(others_ms=NOW + 1)).feedback == 1
    assert store.feedback.get_preview("P1") is None


def test_what_ended_long_ago_goes_and_what_was_said_stays(store: SqlStore) -> None:
    """Rules of partitions are bounded; feedback is a record."""
    store.partitions.claim(0)
    one = said(1)
    store.feedback.add(one, step(one))
    commit(store, [holding(1, until_offset=9), holding(2)])

    assert store.retention.purge(RetentionCutoffs(others_ms=one.expires_ms + 1)).feedback == 1
    assert [held.rule.rule_id for held in store.feedback.rules_of_partition(0)] == ["F0002"]
    assert store.feedback.get("F0001") is not None


def test_labels_end_once_they_are_over(store: SqlStore) -> None:
    """With their steps; not what holds, not what a partition still holds to, not what was said or changed since."""
    store.partitions.claim(0)
    cases: list[dict[str, Any]] = [
        {"status": "noted", "expires_ms": 0},
        {"status": "expired"},
        {"status": "revoked"},
        {"status": "active"},
        {"status": "adopting"},
        {"status": "revoking"},
        {"status": "expired"},
        {"status": "noted", "until_ms": LATE},
        {"status": "revoked", "updated_ms": LATE},
        {"status": "revoked", "expires_ms": LATE},
    ]
    for number, more in enumerate(cases):
        one = said(number, **{"expires_ms": NOW, "until_ms": NOW, "updated_ms": NOW, **more})
        store.feedback.add(one, step(one))
    commit(store, [holding(1, until_offset=9), holding(6)])

    assert store.retention.purge(RetentionCutoffs(labels_ms=NOW)).labels == 0
    assert store.retention.purge(RetentionCutoffs(labels_ms=NOW + 1)).labels == 3
    left = [one.feedback_id for one in store.feedback.page().items]
    assert sorted(left) == [f"F{number:04}" for number in range(3, 10)]
    assert [store.feedback.list_steps(f"F{number:04}") != [] for number in range(4)] == [False, False, False, True]
    assert store.feedback.orphaned_rules() == []


def test_labels_are_what_was_said_and_not_taken_back(store: SqlStore) -> None:
    """A rule that expired is a label still."""
    for number, status in enumerate(("active", "expired", "revoked", "revoking", "noted")):
        one = said(number, status=status)
        store.feedback.add(one, step(one))
    late = said(8, status="noted", verdict="true_positive", until_ms=NOW + 500)
    store.feedback.add(late, step(late))

    assert [one.feedback_id for one in feedback_labels(store.feedback)] == ["F0008", "F0004", "F0001", "F0000"]
    (newest,) = feedback_labels(store.feedback, since_ms=NOW + 1)
    assert (newest.verdict, newest.agent.agent_id, newest.until_ms) == ("true_positive", "bot", NOW + 500)
    assert list(feedback_labels(store.feedback, ("globex",))) == []
