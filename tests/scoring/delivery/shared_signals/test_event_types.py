"""Which events follow from which change of level, and what they say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from trustwatch.scoring.delivery.shared_signals.announced_decision import (
    AnnouncedDecision,
    AnnouncedPin,
    pin_as_decision,
    read_announced_decision,
)
from trustwatch.scoring.delivery.shared_signals.event_types import (
    ANOMALOUS_BEHAVIOR,
    EVENT_RULES,
    EVENTS_SUPPORTED,
    RISK_LEVEL_CHANGE,
    SESSION_REVOKED,
    TOKEN_CLAIMS_CHANGE,
    WORKLOAD_COMPROMISED,
    event_members,
    events_delivered,
)
from trustwatch.scoring.records.agents import RiskLevel

from ....support.alert_receiver import approval, change
from ....support.checkout import ROOT
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
    event = events_of(replace(changed, in_claims=True))[TOKEN_CLAIMS_CHANGE]

    assert event["claims"] == {"risk_level": expected}
    assert TOKEN_CLAIMS_CHANGE not in events_of(changed)
    assert TOKEN_CLAIMS_CHANGE not in events_of(replace(changed, in_claims=True, overruled=True))
    every = [RISK_LEVEL_CHANGE, SESSION_REVOKED, TOKEN_CLAIMS_CHANGE, ANOMALOUS_BEHAVIOR, WORKLOAD_COMPROMISED]
    if expected == "critical" and not more:
        assert list(events_of(replace(changed, in_claims=True))) == every


PINNED = ("P1", "acme", "https://as.example", "bot")


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
    pin = AnnouncedPin(*PINNED, level, holds=True, changed_ms=1)
    events = events_of(pin_as_decision(pin, RiskLevel(before), revokes=revokes, enforced=True))

    assert list(events) == expected
    assert all(event["initiating_entity"] == "admin" for event in events.values())
    if WORKLOAD_COMPROMISED in events:
        assert events[WORKLOAD_COMPROMISED]["detection_method"] == "human_decision"


def test_while_a_person_has_fixed_the_level_only_anomalies_are_told() -> None:
    """What is measured then changes nothing that policy acts on."""
    assert list(events_of(replace(decision(CRITICAL, LOW), overruled=True))) == [ANOMALOUS_BEHAVIOR]
    assert list(events_of(replace(decision(LOW, CRITICAL), overruled=True))) == []


def test_caep_members_are_of_the_values_that_caep_knows() -> None:
    """Three levels in capitals, reasons as objects by language, times as numbers of seconds."""
    event = events_of(decision(CRITICAL, MEDIUM))[RISK_LEVEL_CHANGE]

    assert event["principal"] == "USER"
    assert (event["current_level"], event["previous_level"]) == ("HIGH", "MEDIUM")
    assert event["trustwatch_level"] == "critical"
    assert event["risk_reason"] == "first_seen_resource"
    assert event["initiating_entity"] == "policy"
    assert event["event_timestamp"] == 1_764_000_000
    assert list(event["reason_admin"]) == ["en"]


@pytest.mark.parametrize(("before", "level"), [(UNKNOWN, HIGH), (CRITICAL, UNKNOWN)])
def test_caep_has_no_word_for_unknown(before: int, level: int) -> None:
    """Before it is left out, as CAEP has it; after it is LOW, or receivers would hold the agent for what it was."""
    event = events_of(decision(level, before, revokes=False))[RISK_LEVEL_CHANGE]

    assert ("previous_level" in event) == (before != UNKNOWN)
    assert event["current_level"] == ("HIGH" if level else "LOW")
    assert event["trustwatch_level"] == RiskLevel(level).label


def test_wise_members() -> None:
    """Severity is the level's word; how it was found out is said."""
    events = events_of(decision(CRITICAL, LOW))

    assert events[ANOMALOUS_BEHAVIOR]["severity"] == "critical"
    assert events[ANOMALOUS_BEHAVIOR]["anomaly_type"] == "first_seen_resource"
    assert events[WORKLOAD_COMPROMISED]["detection_method"] == "behavioral_analysis"
    assert events[SESSION_REVOKED]["reason_admin"]["en"]


def test_reasons_name_no_resource() -> None:
    """Receivers may be other companies: they get codes, no sentences."""
    assert b"acct-9001" in announced(1, CRITICAL, LOW).payload
    assert "acct-9001" not in str(event_members(EVENT_RULES[0], decision(CRITICAL, LOW)))


def test_what_a_person_ordered_says_so() -> None:
    """A release is the administrator's, not the policy's."""
    event = events_of(decision(LOW, CRITICAL, revokes=False, cause="release"))[RISK_LEVEL_CHANGE]

    assert event["initiating_entity"] == "admin"


def test_only_what_was_requested_and_is_supported_is_delivered() -> None:
    """Unknown types are ignored."""
    assert events_delivered(["urn:other", SESSION_REVOKED, SESSION_REVOKED]) == [SESSION_REVOKED]
    assert events_delivered([]) == []
    assert events_delivered(EVENTS_SUPPORTED) == list(EVENTS_SUPPORTED)


def test_other_alerts_are_no_decisions() -> None:
    """Nothing follows from an approval that is wanted, nor from what is none of ours."""
    assert read_announced_decision(approval()) is None
    assert read_announced_decision(b"{") is None
    assert read_announced_decision(msgspec.json.encode({"type": "io.trustwatch.alert.risk-level-changed.v1"})) is None
    assert read_announced_decision(change(RiskLevel.LOW, RiskLevel.HIGH)) is not None


def test_the_page_of_standards_has_the_table() -> None:
    """Each event of ours, in the words of the table."""
    page = (ROOT / "reference" / "standards.md").read_text()
    for rule in EVENT_RULES:
        profile = "CAEP" if "/caep/" in rule.event_type else "WISE"
        assert f"| {profile} `{rule.event_type.rpartition('/')[2]}` | {rule.sent_for} |" in page
