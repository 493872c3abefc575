"""Answers follow from their records by rule."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from trustwatch.api.http.wire import Wire
from trustwatch.ingest.described import FLAT, NULL, AgentId, DecisionId, Level, RiskScore, member
from trustwatch.scoring.records.agents import AgentName, RiskLevel

AT_MS = 1_764_023_054_130
AT = "2025-11-24T22:24:14.130Z"


class Part(NamedTuple):
    """A part of a thing."""

    text: Annotated[str, member("a text", "one")]
    secret: str = "kept"


class Inner(msgspec.Struct):
    """A record in a record."""

    count: Annotated[int, member("a number", 3)]
    at_ms: Annotated[int, member("when it happened")] = AT_MS


class Thing(msgspec.Struct):
    """A thing with a member of every kind.

    More about it.
    """

    name: AgentName
    level: Level
    score: RiskScore
    opened_ms: Annotated[int, member("when it was opened")]
    closed_ms: Annotated[int, member("when it was closed", null=True)]
    held_until_ms: Annotated[int, member("until when it is held", null=True)]
    decision_id: Annotated[DecisionId, NULL]
    parts: Annotated[tuple[Part, ...], member("its parts")]
    detail: Annotated[bytes, member("JSON")]
    inner: Annotated[Inner, FLAT]
    state: bytes = b"private"

    @property
    def size(self) -> Annotated[int, member("number of parts", 1)]:
        """Number of parts."""
        return len(self.parts)

    @property
    def other(self) -> int:
        """A number that stays inside."""
        return 0


class ThingOut(Wire, of=Thing, rename={"score": "risk_score", "inner.count": "total"}, omit=("name.issuer",)):
    """A thing."""

    detail: dict[str, Any]
    kind: Literal["thing"] = "thing"
    owner: AgentId | None


def thing(**changes: Any) -> Thing:
    values: dict[str, Any] = {
        "name": AgentName(1, "acme", "https://as.example", "agent-1"),
        "level": RiskLevel.HIGH,
        "score": 0.5,
        "opened_ms": AT_MS,
        "closed_ms": 0,
        "held_until_ms": 0,
        "decision_id": "",
        "parts": (Part("one"),),
        "detail": b'{"a":1}',
        "inner": Inner(3),
    }
    return Thing(**values | changes)


def test_an_answer_has_the_described_members_of_its_record() -> None:
    """Levels as words, times as text, nothing as null, records as answers, JSON as what it says."""
    assert ThingOut.of(thing(), owner=None).model_dump() == {
        "tenant": "acme",
        "agent_id": "agent-1",
        "level": "high",
        "risk_score": 0.5,
        "opened_at": AT,
        "closed_at": None,
        "held_until": None,
        "decision_id": None,
        "parts": [{"text": "one"}],
        "detail": {"a": 1},
        "total": 3,
        "at": AT,
        "size": 1,
        "kind": "thing",
        "owner": None,
    }
    shown = ThingOut.of(thing(closed_ms=AT_MS, held_until_ms=AT_MS, decision_id="D1"), owner="agent-2")
    assert (shown.model_dump()["closed_at"], shown.model_dump()["held_until"]) == (AT, AT)
    assert (shown.model_dump()["decision_id"], shown.owner) == ("D1", "agent-2")
