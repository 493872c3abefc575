"""Agents that an event names besides its own: a source counts only for those that it is authorized for."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.settings.access_settings import EventSourceSettings, ForeignTopicSettings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import SourceNotAllowed
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.scan.scan_schema import FREE_OBJECT, IDENTIFIER, NAMES, SCHEMA_MEMBERS, TEXT
from trustwatch.scoring.engine.delegation import EdgeCollector

AS = "https://as.example"
OWN, OTHER = "team1-a", "neighbor"
SOURCES = {
    "caller": SourceBinding(EventSourceSettings("team1", ("acme",), (AS,), ("*",), ("team1-*",))),
    "topic": SourceBinding(
        ForeignTopicSettings(
            topic="t", name="t", tenants=("acme",), issuers=(AS,), format="native", agents=("team1-*",)
        )
    ),
    "collector": SourceBinding(EventSourceSettings("team1", ("acme",), (AS,), ("*",), ("team1-*",), gateway=False)),
}
EVERYTHING = SourceBinding(EventSourceSettings("all", ("*",), ("*",), ("*",), ("*",)))
TEXT_MEMBERS = [member.path for member in SCHEMA_MEMBERS if member.kind in (TEXT, IDENTIFIER)]
LIST_MEMBERS = [member.path for member in SCHEMA_MEMBERS if member.kind == NAMES]


def event(path: str, value: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "time": "2026-03-02T08:00:00Z",
        "tenant": "acme",
        "agent": {"id": OWN, "issuer": AS},
        "type": "tool.call",
        "action": "pay",
        "outcome": "success",
    }
    outer, _, inner = path.partition(".")
    if outer == "arguments":
        made[outer] = [{"name": "to", "origin": "prompt", inner: value}]
    else:
        made[outer] = {**made.get(outer, {}), inner: value} if inner else value
    return made


def logged(binding: SourceBinding, said: dict[str, Any]) -> NativeEvent:
    record = Admission(AgentRegistry(())).admit(RawRecord(msgspec.json.encode(said)), binding, 1_772_500_000_000)
    return decode_event(record.payload)


def moved_by(binding: SourceBinding, said: dict[str, Any]) -> set[str]:
    """Agents that an event moves: its own, and those that an edge leads to; none if it is refused."""
    try:
        native = logged(binding, said)
    except SourceNotAllowed:
        return set()
    collector = EdgeCollector()
    collector.collect(ColumnEncoder(b"salt").encode([native]), np.ones(1))
    return {native.agent.id, *(edge.target for edge in collector.drain() if edge.kind != "acts_for")}


@pytest.mark.parametrize("source", SOURCES)
def test_no_member_moves_an_agent_of_others(source: str) -> None:
    """Not by any text, list or free object of the schema; a source of all agents moves whom it names."""
    chain = [OTHER, "team1-bad"]
    values: dict[str, Any] = dict.fromkeys(TEXT_MEMBERS, OTHER) | dict.fromkeys(LIST_MEMBERS, chain)
    values["attributes"] = {"delegation": chain, "peer": OTHER, "agent": {"id": OTHER}, "unauthorized": []}
    assert [one.path for one in SCHEMA_MEMBERS if one.kind == FREE_OBJECT] == ["attributes"]

    bound = {path: moved_by(SOURCES[source], event(path, value)) for path, value in values.items()}
    free = {path: moved_by(EVERYTHING, event(path, value)) for path, value in values.items()}

    assert {path: moved for path, moved in bound.items() if moved - {OWN}} == {}
    assert {path: moved for path, moved in free.items() if moved - {OWN}} == {
        "agent.id": {OTHER},
        "delegation": {OWN, OTHER},
        "peer": {OWN, OTHER},
    }


def test_an_outside_ancestor_moves_the_own_agent_alone() -> None:
    """Which stays the descendant of all that came before it, whoever stands between."""
    native = logged(SOURCES["caller"], event("delegation", [OWN, OTHER, "team1-b", "elsewhere", "team1-bad"]))
    assert native.unauthorized == [OTHER, "elsewhere"]
    collector = EdgeCollector()
    collector.collect(ColumnEncoder(b"salt").encode([native]), np.zeros(1))

    assert {(edge.source, edge.target) for edge in collector.drain()} == {
        (OTHER, OWN),
        ("team1-b", OWN),
        ("elsewhere", "team1-b"),
        ("team1-bad", "team1-b"),
    }


def test_what_one_source_may_not_say_another_may() -> None:
    """Of the same agents in the same hour, in either order, with batches of one or two."""
    said = event("peer", OTHER) | {"delegation": [OWN, OTHER, "team1-bad"]}
    both = [logged(binding, said) for binding in (SOURCES["caller"], EVERYTHING)]
    for batches in ([[both[0]], [both[1]]], [both], [both[::-1]]):
        collector, found = EdgeCollector(), set()
        for batch in batches:
            collector.collect(ColumnEncoder(b"salt").encode(batch), np.ones(len(batch)))
            found |= {(edge.kind, edge.target) for edge in collector.drain()}
        assert found == {("called", OTHER), ("delegated", OTHER), ("delegated", OWN)}


def test_a_source_does_not_say_itself_whom_it_is_authorized_for() -> None:
    """The member is ours, in every form; names beyond what a list holds are cut behind those that make edges."""
    for given in ([], ["team1-b"], [OTHER]):
        said = {**event("peer", OTHER), "unauthorized": given}
        assert logged(SOURCES["caller"], said).unauthorized == [OTHER]
        assert logged(EVERYTHING, said).unauthorized is None
    many = logged(SOURCES["caller"], {**event("peer", OTHER), "delegation": [f"x{n}" for n in range(256)]})
    assert many.unauthorized == [OTHER, *(f"x{n}" for n in range(255))]
