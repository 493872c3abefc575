"""The chain of decisions: it is written with them, verifies, and says where it breaks. On every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, text, update

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.decision_store import ChainVerification, verify_chains
from trustwatch.scoring.store.retention_settings import RetentionCutoffs
from trustwatch.scoring.store.sql_schema import DECISIONS
from trustwatch.scoring.store.sql_store import SqlStore

from ..support import stored_rows

NOW = 1_764_000_000_000
DAY_MS = 86_400_000


def decision(number: int, **values: object) -> Decision:
    name = AgentName(IdentityHasher().agent_key("acme", "https://as", "agent-ä\0"), "acme", "https://as", "agent-ä\0")
    made = msgspec.structs.replace(
        stored_rows.decision(number, name),
        decision_id=f"D{number:04}",
        confidence=1 / 3,
        anomaly_score=-0.0,
        reasons=(RiskReason("first_seen_resource", "resource_rarity", "acct-\u2028", "42", 0.4, "first use"),),
        counterfactual="medium if …",
        feature_vector={"pace": 1.5},
        evidence={"statistic": 3.25},
    )
    return msgspec.structs.replace(made, **values)


def commit(store: SqlStore, decisions: list[Decision], partition: int = 0) -> None:
    at = store.partitions.position(partition)
    at = at if at.epoch else store.partitions.claim(partition)
    store.commit(Commit(at, Position(partition, at.epoch, at.offset + 1), [], decisions, [], []))


def run(store: SqlStore, statement: Any) -> None:
    with store.database.write() as connection:
        connection.execute(statement)


def test_every_decision_is_linked(store: SqlStore) -> None:
    """Over commits and partitions; a decision that is written again is not linked twice."""
    commit(store, [decision(1), decision(2)])
    commit(store, [decision(2), decision(3)])
    commit(store, [decision(4, partition=7)], 7)

    report = verify_chains(store.decisions, store.erasures)

    assert report.intact
    assert (report.checked, report.before, report.erased) == (4, 0, 0)
    assert [(head.partition, head.sequence) for head in report.heads] == [(0, 3), (7, 1)]
    assert report.heads[0].digest != report.heads[1].digest


def test_the_chain_goes_on_behind_a_restart(store: SqlStore) -> None:
    """The head is stored: another process continues where the last one stopped."""
    commit(store, [decision(1)])
    first = verify_chains(store.decisions, store.erasures).heads[0]
    commit(store, [decision(2)])
    links = store.decisions.chain_links(0, 0)

    assert links[1].previous == first.digest == links[0].digest
    assert links[0].salt != links[1].salt


@pytest.mark.parametrize(
    ("statement", "sequence", "what"),
    [
        (update(DECISIONS).where(DECISIONS.c.decision_id == "D0002").values(level=1), 2, "its content was changed"),
        (update(DECISIONS).where(DECISIONS.c.decision_id == "D0002").values(reasons=b"[]"), 2, "content was changed"),
        (delete(DECISIONS).where(DECISIONS.c.decision_id == "D0002"), 2, "1 decisions are missing"),
        (delete(DECISIONS).where(DECISIONS.c.decision_id == "D0004"), 4, "1 decisions are missing"),
        (delete(DECISIONS), 1, "4 decisions are missing"),
        (
            update(DECISIONS).where(DECISIONS.c.decision_id == "D0002").values(chain_content="00"),
            2,
            "digests do not fit",
        ),
        (
            update(DECISIONS).where(DECISIONS.c.decision_id == "D0003").values(erasure_id="never-asked-for"),
            3,
            "an erasure that never was",
        ),
    ],
)
def test_what_was_tampered_with_is_named(store: SqlStore, statement: Any, sequence: int, what: str) -> None:
    """A changed, removed or hidden decision shows, with its place."""
    commit(store, [decision(number) for number in range(1, 5)])
    run(store, statement)

    report = verify_chains(store.decisions, store.erasures)

    assert not report.intact
    assert report.breaks[0].sequence == sequence
    assert what in report.breaks[0].problem


def test_retention_leaves_an_anchor(store: SqlStore) -> None:
    """What is left verifies; a decision that goes missing behind the anchor still shows."""
    store.retention.prepare_weeks(NOW)
    weeks = [decision(number, decided_ms=NOW + number * 8 * DAY_MS) for number in range(1, 5)]
    for week in range(1, 5):
        store.retention.prepare_weeks(NOW + week * 8 * DAY_MS)
    commit(store, weeks)
    removed = store.retention.purge(RetentionCutoffs(decisions_ms=NOW + 25 * DAY_MS)).decisions
    report = verify_chains(store.decisions, store.erasures)

    assert removed in (2, 3)  # PostgreSQL keeps a week until all of it is over
    assert report.intact
    assert report.checked == 4 - removed
    assert report.heads[0].anchor_sequence == removed

    commit(store, [decision(5, decided_ms=NOW + 33 * DAY_MS)])
    assert verify_chains(store.decisions, store.erasures).intact
    run(store, delete(DECISIONS).where(DECISIONS.c.decision_id == "D0004"))
    assert "missing" in verify_chains(store.decisions, store.erasures).breaks[0].problem


def test_decisions_from_before_are_counted(store: SqlStore) -> None:
    """What was written by an older version is in no chain: said so, and no break."""
    commit(store, [decision(1), decision(2)])
    columns = "chain_sequence = 0, chain_salt = '', chain_content = '', chain_previous = '', chain_digest = ''"
    run(store, text(f"UPDATE decisions SET {columns}"))
    run(store, text("DELETE FROM decision_chains"))
    commit(store, [decision(3)])

    report: ChainVerification = verify_chains(store.decisions, store.erasures)

    assert report.intact
    assert (report.before, report.checked) == (2, 1)


def test_long_chains_are_read_in_pages(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that ends within the chain does not end the walk."""
    commit(store, [decision(number) for number in range(1, 24)])
    whole: Callable[..., Any] = store.decisions.chain_links
    monkeypatch.setattr(store.decisions, "chain_links", lambda partition, after: whole(partition, after, 5))

    assert verify_chains(store.decisions, store.erasures).checked == 23
