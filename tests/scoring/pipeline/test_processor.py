"""The processor: records in their order, nothing lost, everything named."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from trustwatch.ingest.features import layout
from trustwatch.ingest.identities import IdentityHasher, unkeyed_agent_key
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.records.agents import RiskLevel

HOUR = 3_600_000


def attack(make: Any, number: int, at_ms: int) -> list[dict[str, Any]]:
    """A revoked token is used: the surest way to critical."""
    token = {"credential": {"method": "none", "token_id": f"t{number}"}}
    return [
        make.event(number, 1, at_ms, type="token.revoke", **token),
        make.event(number + 1, 1, at_ms + 1, **token),
        make.event(number + 2, 1, at_ms + 2, **token),
    ]


def control(payload: object, at_ms: int) -> Record:
    return Record(RecordKind.CONTROL, 0, at_ms, json.dumps(payload).encode())


def key_of(agent: int) -> str:
    return str(unkeyed_agent_key("acme", "https://as.example", f"agent-{agent}"))


def adopted(expires_ms: int) -> bytes:
    rule = {"rule_id": "r", "kind": "agent", "key": "", "agent_type": "", "features": None, "resource": None}
    rule |= {"tenant": "acme", "issuer": "https://as.example", "agent_id": "agent-1", "expires_ms": expires_ms}
    return json.dumps({"command": "feedback.adopt", "rule": rule, "by": "ann", "why": "w"}).encode()


def forgotten(name: str) -> bytes:
    order = {"erasure_id": "e", "kind": "agent", "tenant": "acme", "issuer": "i", "name": name, "pseudonym": "p"}
    return json.dumps(order).encode()


def refused(received_ms: int) -> bytes:
    letter = {"letter_id": "L", "received_ms": received_ms, "source": "s", "reason": "r", "path": "$", "raw": "eA=="}
    return json.dumps(letter).encode()


def test_records_of_all_kinds_keep_their_order(kit: Any, make: Any) -> None:
    """An event, a tick, and an event act in exactly this order: the tick ends the hold before the last event."""
    processor, at = kit.processor(), make.START_MS
    end = at + 25 * HOUR
    records = [*kit.records(attack(make, 1, at)), kit.tick(end), *kit.records([make.event(9, 1, end + 1)])]
    decisions = processor.apply(RecordBatch(0, 0, records)).decisions
    assert [decision.offset for decision in decisions] == sorted(decision.offset for decision in decisions)
    (ended,) = [decision for decision in decisions if decision.offset == 3]
    assert (ended.cause, ended.previous_level) == ("tick", 4)
    assert ended.level < 3
    assert ended.reasons[0].text == "the longest hold of a critical agent has ended"
    assert all(decision.previous_level < 3 for decision in decisions if decision.offset == 4)


def test_duplicates_are_dropped_and_counted(kit: Any, make: Any) -> None:
    """The same event again, in the batch or later, moves nothing."""
    processor = kit.processor()
    records = kit.records([make.event(n, 1, make.START_MS + n) for n in (1, 2, 1)])
    first = processor.apply(RecordBatch(0, 0, records))
    second = processor.apply(RecordBatch(0, 3, records[:2]))
    assert (first.events, first.duplicates, second.events, second.duplicates) == (2, 1, 0, 2)
    name = processor.engine.agents.names[0].identity
    seeded = kit.model.seeds.events[kit.model.seeds.find([IdentityHasher(make.SALT).agent_hash(*name)])[0]]
    assert processor.engine.risk[0]["events"] == seeded + 2


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (RecordKind.EVENT, b'{"time": "yesterday"}'),
        (RecordKind.EVENT, b"\xff\x00"),
        (RecordKind.CONTROL, b"{"),
        (RecordKind.CONTROL, b'{"command": "explode"}'),
        (RecordKind.DEAD, b"not json"),
        (9, b"from the future"),
        (RecordKind.CONTROL, b'{"command": "release", "key": "-1", "by": "me"}'),
        (RecordKind.CONTROL, b'{"command": "release", "key": "99999999999999999999999", "by": "me"}'),
        (RecordKind.CONTROL, adopted(10**30)),
        (RecordKind.FORGET, forgotten("")),
        (RecordKind.FORGET, b"{}"),
        (RecordKind.DEAD, refused(2**63)),
        (RecordKind.DEAD, refused(253_402_300_800_000)),
        (RecordKind.DEAD, refused(-1)),
        (RecordKind.TICK, b"no time at all"),
        (RecordKind.TICK, (2**63 - 1).to_bytes(8, "little")),
    ],
)
def test_poison_becomes_a_dead_letter(kit: Any, make: Any, kind: int, payload: bytes) -> None:
    """No record can stop the pipeline: what cannot be applied is kept with its offset, bytes and a reason."""
    processor = kit.processor()
    good = kit.records([make.event(1, 1, make.START_MS)])[0]
    applied = processor.apply(RecordBatch(0, 7, [Record(kind, 5, 123, payload), good]))
    (letter,) = applied.dead_letters
    assert (letter.partition, letter.offset, letter.raw, letter.received_ms) == (0, 7, payload, 123)
    assert letter.reason
    assert applied.events == 1


def test_refusals_of_the_edge_are_stored_as_they_came(kit: Any) -> None:
    """A DEAD record becomes the dead letter that the edge described."""
    refused = {"letter_id": "L1", "received_ms": 5, "source": "urn:x", "reason": "bad", "path": "$.time"}
    refused["raw"] = base64.b64encode(b"\xff\xfe").decode()
    record = Record(RecordKind.DEAD, 0, 6, json.dumps(refused).encode())
    (letter,) = kit.processor().apply(RecordBatch(0, 3, [record])).dead_letters
    found = (letter.letter_id, letter.source, letter.path, letter.raw, letter.offset)
    assert found == ("L1", "urn:x", "$.time", b"\xff\xfe", 3)


NAMED = {"tenant": "acme", "issuer": "https://as.example", "agent_id": "agent-1"}


@pytest.mark.parametrize("agent", [NAMED, {"key": str(unkeyed_agent_key(*NAMED.values()))}], ids=["named", "of 0.1"])
def test_a_person_releases_a_critical_agent(kit: Any, make: Any, agent: dict[str, str]) -> None:
    """A release is a record: it ends critical with a decision that names who said so; unknown agents are no error."""
    processor, at = kit.processor(), make.START_MS
    processor.apply(RecordBatch(0, 0, kit.records(attack(make, 1, at))))
    assert processor.engine.risk[0]["level"] == RiskLevel.CRITICAL
    counts = processor.engine.builder.state.numbers[0, layout.N_PACE : layout.N_NOVELTY + 1]
    assert counts.any()
    reference = processor.engine.builder.state.numbers[0, layout.N_REF_DAYS : layout.N_REF_DAYS + 1]
    reference[0] = 5.0
    command = {"command": "release", **agent, "by": "ann\nroot", "note": "n" * 5000}
    stranger = {**command, **({"key": "12345"} if "key" in agent else {"agent_id": "nobody"})}
    applied = processor.apply(RecordBatch(0, 3, [control(stranger, at), control(command, at + 9)]))
    (decision,) = applied.decisions
    assert (decision.cause, decision.previous_level, decision.offset, decision.decided_ms) == ("release", 4, 4, at + 9)
    assert decision.level < RiskLevel.MEDIUM
    text = decision.reasons[0].text
    assert text.startswith("released by ann\ufffdroot: nnn")
    assert text.isprintable() and len(text) < 500
    assert not processor.engine.risk[0]["statistic"].any()
    assert not counts.any()  # what the incident left of pace, failures, volume and new names
    assert reference[0] == 0.0  # what the agent does now is right: its slow reference begins with it


def test_decisions_hold_what_made_them(kit: Any, make: Any) -> None:
    """A decision has the vector, the kernel's evidence and all versions, is plain JSON, and the same cause gives the
    same id."""
    runs = []
    for _ in range(2):
        applied = kit.processor().apply(RecordBatch(0, 50, kit.records(attack(make, 1, make.START_MS))))
        runs.append([d for d in applied.decisions if d.level == RiskLevel.CRITICAL])
    (decision,), (again,) = runs
    assert decision == again
    assert decision.event_id in ("e-2", "e-3")
    assert decision.feature_vector and all(value != 0.0 for value in decision.feature_vector.values())
    evidence = decision.evidence
    assert "use_after_revocation" in evidence["signals"]
    assert evidence["statistic"] >= evidence["thresholds"]["critical"] > evidence["thresholds"]["medium"]
    assert evidence["statistic"] == pytest.approx(
        min(max(evidence["prior"], 0.0) + evidence["gain"], evidence["thresholds"]["critical"] + 4.0)
    )
    assert (decision.model_version, decision.mode) == ("test-1", "enforce")
    assert decision.baseline_version == kit.model.baseline_version
    assert decision.policy_version
    assert json.loads(msgspec.json.encode(decision))["evidence"]["events"] == evidence["events"]


def test_events_from_the_future_happen_about_now(kit: Any, make: Any) -> None:
    """A clock that runs ahead neither lets risk decay nor makes later events late; history without arrival is free."""
    processor, at = kit.processor(), make.START_MS
    processor.apply(RecordBatch(0, 0, kit.records(attack(make, 1, at))))
    ahead = kit.record(make.event(8, 1, at + 300 * 24 * HOUR), received_ms=at + 1000)
    processor.apply(RecordBatch(0, 3, [ahead]))
    assert processor.engine.risk[0]["level"] == RiskLevel.CRITICAL
    assert processor.engine.risk[0]["at_ms"] == at + 1000 + 60_000
    free = kit.record(make.event(9, 1, at + 300 * 24 * HOUR), received_ms=0)
    processor.apply(RecordBatch(0, 4, [free]))
    assert processor.engine.risk[0]["at_ms"] == at + 300 * 24 * HOUR


def test_more_agents_than_memory_in_one_batch(kit: Any, make: Any) -> None:
    """A batch that names more agents than are kept in memory is scored whole."""
    processor = kit.processor(capacity=3)
    applied = processor.apply(
        RecordBatch(0, 0, kit.records([make.event(n, f"n{n}", make.START_MS) for n in range(40)]))
    )
    assert applied.events == 40
    assert len(processor.engine.agent_states.evicted) == 37
