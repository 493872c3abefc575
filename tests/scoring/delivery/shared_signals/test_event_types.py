"""Which events follow from which change of level, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.scoring.delivery.shared_signals.announced_decision import AnnouncedDecision, read_announced_decision
from trustwatch.scoring.delivery.shared_signals.event_types import (
    ANOMALOUS_BEHAVIOR,
    EVENT_RULES,
    RISK_LEVEL_CHANGE,
    SESSION_REVOKED,
    TOKEN_CLAIMS_CHANGE,
    WORKLOAD_COMPROMISED,
    event_members,
)
from trustwatch.scoring.records.agents import RiskLevel

from ....support.shared_signals import announced

UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL = range(5)
ALL = [RISK_LEVEL_CHANGE, SESSION_REVOKED, ANOMALOUS_BEHAVIOR, WORKLOAD_COMPROMISED]
TOLD = [RISK_LEVEL_CHANGE, ANOMALOUS_BEHAVIOR]


def decision(level: int, before: int, **more: Any) -> AnnouncedDecision:
    """The change as a reader of the outbox has it."""
    found = read_announced_decision(announced(1, level, before, **more).payload)
    assert found is not None
    return found


def events_of(decided: AnnouncedDecision) -> dict[str, dict[str, Any]]:
    """Events by type, in the order in which they are sent."""
    return {rule.event_type: event_members(rule, decided) for rule in EVENT_RULES if rule.follows(decided)}


@pytest.mark.parametrize(
    ("before", "level", "more", "expected"),
    [
        (LOW, MEDIUM, {"revokes": False}, TOLD),
        (UNKNOWN, HIGH, {"revokes": False}, TOLD),
        (LOW, CRITICAL, {}, ALL),
        (HIGH, CRITICAL, {}, ALL),
        (LOW, MEDIUM, {"revokes": True}, ALL),  # the operator's policy, not the level, says who is revoked
        (LOW, CRITICAL, {"mode": "shadow"}, TOLD),
        (CRITICAL, HIGH, {}, [RISK_LEVEL_CHANGE]),
        (HIGH, LOW, {"revokes": False}, [RISK_LEVEL_CHANGE]),
        (CRITICAL, UNKNOWN, {"revokes": False, "cause": "release"}, [RISK_LEVEL_CHANGE]),
    ],
)
def test_the_table(before: int, level: int, more: dict[str, Any], expected: list[str]) -> None:
    """Every kind of change: a rise, a fall, what revokes and what does not, and shadow, which acts on nothing."""
    assert list(events_of(decision(level, before, **more))) == expected


@pytest.mark.parametrize(
    ("before", "level", "more", "expected"),
    [
        (LOW, CRITICAL, {}, "critical"),
        (LOW, CRITICAL, {"mode": "shadow"}, "critical"),  # hooks write claims in shadow mode, too
        (HIGH, LOW, {"revokes": False}, "low"),
        (HIGH, UNKNOWN, {"revokes": False, "cause": "release"}, "unknown"),
    ],
)
def test_claims_of_tokens(before: int, level: int, more: dict[str, Any], expected: str) -> None:
    """The claim that hooks write, with its new value; nothing where no hook writes it, or a person's word holds."""
    changed = decision(level, before, **more)
    event = events_of(changed._replace(in_claims=True))[TOKEN_CLAIMS_CHANGE]

    assert event["claims"] == {"risk_level": expected}
    assert TOKEN_CLAIMS_CHANGE not in events_of(changed)
    assert TOKEN_CLAIMS_CHANGE not in events_of(changed._replace(in_claims=True, overruled=True))
    every = [RISK_LEVEL_CHANGE, SESSION_REVOKED, TOKEN_CLAIMS_CHANGE, ANOMALOUS_BEHAVIOR, WORKLOAD_COMPROMISED]
    if expected == "critical" and not more:
        assert list(events_of(changed._replace(in_claims=True))) == every


PINNED = ("P1.set", "acme", "https://as.example", "bot")


@pytest.mark.parametrize(
    ("before", "level", "revokes", "expected"),
    [
        (LOW, CRITICAL, True, [RISK_LEVEL_CHANGE, SESSION_REVOKED, WORKLOAD_COMPROMISED]),
        (UNKNOWN, MEDIUM, False, [RISK_LEVEL_CHANGE]),
        (CRITICAL, LOW, False, [RISK_LEVEL_CHANGE]),
        (CRITICAL, CRITICAL, True, []),
        (UNKNOWN, LOW, False, []),
    ],
)
def test_what_a_person_fixes(before: int, level: int, revokes: bool, expected: list[str]) -> None:
    """It is no anomaly, since nobody measured it; what it revokes is said to be a person's word."""
    levels = RiskLevel(before), RiskLevel(level)
    pinned = AnnouncedDecision(*PINNED, *levels, revokes, True, "pin", "", 1, 1.0, ())
    events = events_of(pinned)

    assert list(events) == expected
    assert all(event["initiating_entity"] == "admin" for event in events.values())
    if WORKLOAD_COMPROMISED in events:
        assert events[WORKLOAD_COMPROMISED]["detection_method"] == "human_decision"


def test_while_a_person_has_fixed_the_level_only_anomalies_are_told() -> None:
    """What is measured then changes nothing that policy acts on."""
    assert list(events_of(decision(CRITICAL, LOW)._replace(overruled=True))) == [ANOMALOUS_BEHAVIOR]
    assert list(events_of(decision(LOW, CRITICAL)._replace(overruled=True))) == []


def test_reasons_name_no_resource() -> None:
    """Receivers may be other companies: they get codes, no sentences."""
    found = decision(CRITICAL, LOW)
    rule = EVENT_RULES[0]

    assert "acct-9001" in str(found.reasons)
    assert "acct-9001" not in str(event_members(rule, found))


def test_what_a_person_ordered_says_so() -> None:
    """A release is the administrator's, not the policy's."""
    event = events_of(decision(LOW, CRITICAL, revokes=False, cause="release"))[RISK_LEVEL_CHANGE]

    assert event["initiating_entity"] == "admin"
