"""Answers follow from their records by rule."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest

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


def test_what_is_given_replaces_what_the_record_has() -> None:
    assert ThingOut.of(thing(), owner=None, risk_score=0.0).model_dump()["risk_score"] == 0.0


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="detail"):
        ThingOut.of(thing(detail=b"[]"), owner=None)


def test_the_schema_has_descriptions_examples_and_bounds() -> None:
    """All but `kind`, which nobody described, are required and described."""
    schema = ThingOut.model_json_schema()
    members = schema["properties"]

    assert members["risk_score"] == {
        "description": "accumulated evidence, 0 to 1",
        "examples": [0.87],
        "maximum": 1,
        "minimum": 0,
        "title": "Risk Score",
        "type": "number",
    }
    assert members["owner"]["description"] == "id of the agent, as its issuer knows it"
    assert members["closed_at"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert members["parts"]["items"] == {"$ref": "#/$defs/PartOut"}
    assert schema["$defs"]["PartOut"]["description"] == "A part of a thing."
    assert {*schema["required"]} == {*members} - {"kind"}
    assert not {"state", "secret", "other", "issuer", "name"} & {*members, *schema["$defs"]["PartOut"]["properties"]}
