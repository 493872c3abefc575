"""Many decisions in a commit: each is stored to its last bit, whatever it holds. On every store."""

from __future__ import annotations

from itertools import cycle

import msgspec
import pytest
from sqlalchemy import select

from tests.support.alert_receiver import DECISION
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.records.agents import AgentEdge, AgentName
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.store.codec import decision_params
from trustwatch.scoring.store.decision_store import verify_chains
from trustwatch.scoring.store.sql_schema import DECISIONS
from trustwatch.scoring.store.sql_store import SqlStore

MANY = 1_203
"""More than two statements, and the last one is not full."""

TEXTS = (
    "",
    "plain",
    'with "quotes", \\ and \\u0000 in letters',
    "\0",
    "\1",
    "\1\0\1\0001",
    "line\nbreak\ttab\x1f\x7f",
    "ä€\u2028\ufeff\ufffe\U0001f6e1\U0010ffff",
    "null",
    "{1,NULL}",
)
FLOATS = (0.0, -0.0, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e16, 1e-5, 123456789012345680.0)
INTEGERS = (0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63))


def hostile_decisions() -> list[Decision]:
    """Decisions whose members go through every text, float and whole number above."""
    texts, floats, integers = cycle(TEXTS), cycle(FLOATS), cycle(INTEGERS)
    return [hostile_decision(number, next(texts), next(floats), next(integers)) for number in range(MANY)]


def hostile_decision(number: int, text: str, value: float, integer: int) -> Decision:
    agent_id = f"{number}{text}"
    return msgspec.structs.replace(
        DECISION,
        decision_id=f"D{number:06}{text}",
        agent=AgentName(IdentityHasher().agent_key("acme", text, agent_id), "acme", text, agent_id),
        event_time_ms=integer,
        risk_score=value,
        p_value=-value,
        reasons=(RiskReason("burst", "pace", text, text, value, text),) * (number % 3),
        counterfactual=text,
        feature_vector={"pace": value, text: -value},
        evidence={"statistic": value, "names": [text, None, True, integer]},
        offset=number,
    )


def commit(store: SqlStore, decisions: list[Decision], edges: list[AgentEdge]) -> None:
    at = store.partitions.position(0)
    at = at if at.epoch else store.partitions.claim(0)
    store.commit(Commit(at, Position(0, at.epoch, at.offset + MANY), [], decisions, [], [], edges=edges))


def test_every_decision_comes_back_whole(store: SqlStore) -> None:
    """One of an id that is stored, or that stands twice in a commit, changes nothing."""
    decisions = hostile_decisions()
    changed = [msgspec.structs.replace(one, counterfactual="another") for one in decisions[::7]]

    commit(store, decisions[:3], [])
    commit(store, [*decisions, *decisions[::5]], [])
    commit(store, changed, [])

    stored = list(store.decisions.iterate_unpublished(0, 0))
    assert sorted(stored, key=lambda one: one.offset) == decisions
    report = verify_chains(store.decisions, store.erasures)
    assert report.intact and report.checked == MANY


def test_every_column_is_what_was_to_be_written(store: SqlStore) -> None:
    """Bytes are those that were encoded, and floats have all of their bits."""
    decisions = hostile_decisions()
    commit(store, decisions, [])

    with store.database.read() as connection:
        rows = {row.decision_id: row._mapping for row in connection.execute(select(DECISIONS))}

    for one in decisions:
        wanted = decision_params(one)
        assert {name: rows[one.decision_id][name] for name in wanted} == wanted
        assert (rows[one.decision_id]["erasure_id"], rows[one.decision_id]["redacted"]) == ("", "")


@pytest.mark.parametrize("text", TEXTS)
def test_edges_of_any_name(store: SqlStore, text: str) -> None:
    """The same edge from several partitions is one row, with what both saw."""
    name = f"a{text}"
    edges = [AgentEdge("acme", text, "called", name, f"{name}{n}", 5 + n, 9 + n, 1 / 3, 9) for n in range(3)]
    later = [msgspec.structs.replace(edge, last_ms=HOUR_MS + 99, risk=0.1 + 0.7) for edge in edges]

    commit(store, [], [*edges, *later, *edges])

    found = store.edges.find([("acme", text, name)], outgoing=True, kinds={"called"})
    assert sorted(found, key=lambda edge: edge.first_ms) == later
