"""A preview: the same history twice, and what a rule would have changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.learning.feedback_preview import (
    MarkedDecision,
    PreviewContext,
    PreviewJob,
    RecordFilter,
    RuleComparison,
    preview_result,
)
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.feedback import AdoptFeedbackRule, Feedback, FeedbackRule, RevokeFeedbackRule

from ...support import stored_rows
from ...support.stored_rows import said

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AS = "https://as.example"
IDENTITIES = IdentityHasher(b"key of the deployment")
FEATURES = (
    *("target_surprise", "resource_surprise", "action_target_surprise"),
    *("external_target", "novelty_1h", "session_strangeness"),
)


def key_of(agent: str) -> int:
    """Key of an agent of the small world."""
    return IDENTITIES.agent_key("acme", AS, agent)


class Past:
    """Twenty days of normal work, then agents 1 and 3 use new suppliers, and 3 does something worse, too."""

    def __init__(self, kit: Any, make: Any) -> None:
        self.kit = kit
        self.start_ms = make.START_MS + 20 * DAY
        events = make.stream(3, 1_800, start_ms=self.start_ms)
        self.end_ms = self.at_ms = max(kit.record(one).received_ms for one in events)
        for number in range(12):
            self.at_ms += 10 * MINUTE
            for agent in (1, 3):
                action = f"wipe-disk-{number}" if agent == 3 and number >= 6 else "read"
                made = make.event(
                    number,
                    agent,
                    self.at_ms + agent,
                    action=action,
                    session=f"x-{agent}-{number // 4}",
                    resource={"target": f"supplier-{number}.example", "external": True},
                )
                made["id"] = f"odd-{agent}-{number}"
                events.append(made)
        self.records: list[Record] = kit.records(events)

    def job(self, rule: FeedbackRule, event_id: str = "odd-1-3") -> PreviewJob:
        """Over the last days."""
        marked = MarkedDecision("D1", str(key_of("agent-1")), event_id, 0, 3)
        return PreviewJob(rule, marked, self.end_ms - 2 * DAY, self.at_ms)

    def comparison(self, job: PreviewJob, labels: Sequence[Feedback] = ()) -> RuleComparison:
        """A comparison that has seen nothing."""
        return RuleComparison(job, PreviewContext(self.kit.model, EngineSettings(capacity=20), {}, IDENTITIES), labels)

    def run(
        self,
        job: PreviewJob,
        labels: Sequence[Feedback] = (),
        keys: Sequence[int] = (),
        more: Sequence[Record] = (),
    ) -> dict[str, Any]:
        """Preview it as the process does, in parts of uneven size."""
        sieve, comparison = RecordFilter(keys or [key_of("agent-1")], IDENTITIES), self.comparison(job, labels)
        records = sorted([*self.records, *more], key=lambda one: one.received_ms)
        wanted = [one for one in records if sieve.keeps(one)]
        at, sizes = 0, (1, 700, 13, 64)
        while at < len(wanted):
            size = sizes[at % 4]
            comparison.apply_records(wanted[at : at + size])
            at += size
        comparison.finish()
        return preview_result(job, [comparison], "log")


@pytest.fixture(scope="module")
def past(kit: Any, make: Any) -> Past:
    """One history for all tests: it is only read."""
    return Past(kit, make)


def rule(**more: Any) -> FeedbackRule:
    """A rule for agent-1."""
    given = {
        "rule_id": "F1",
        "kind": "agent",
        "key": "",
        "tenant": "acme",
        "agent_type": "Payer",
        "features": FEATURES,
        "resource": None,
        "expires_ms": 10**15,
        "issuer": AS,
        "agent_id": "agent-1",
        **more,
    }
    return FeedbackRule(**given)


def test_alerts_that_a_rule_removes_are_listed_with_their_reasons(past: Past) -> None:
    """Before and after, the events that count, and the one that is marked."""
    found = past.run(past.job(rule()))

    assert found["alerts_before"] >= 2
    assert found["alerts_after"] == 0
    assert found["alerts_removed_count"] == len(found["alerts_removed"]) == found["alerts_before"]
    assert found["agents_affected"] == 1
    assert found["events_matched"] >= 12
    assert not {row["feature"] for row in found["still_odd"]} & set(FEATURES)
    first = found["alerts_removed"][0]
    assert (first["agent_id"], first["tenant"], first["level_with_rule"]) == ("agent-1", "acme", "low")
    assert any("supplier" in text for text in first["reasons"])
    assert found["window"]["events"] < len(past.records) / 4
    assert found["unseen"] == ""


def test_a_rule_that_names_something_else_changes_nothing(past: Past) -> None:
    """An honest preview says so."""
    found = past.run(past.job(rule(features=("hour_surprise",), resource="elsewhere.example")))

    assert found["alerts_before"] == found["alerts_after"] > 0
    assert (found["alerts_removed"], found["events_matched"], found["agents_affected"]) == ([], 0, 0)


def test_what_goes_on_being_odd_is_named(past: Past) -> None:
    """A rule for targets does nothing for a new action: it is said which feature that is."""
    keys = [key_of("agent-3")]
    found = past.run(past.job(rule(agent_id="agent-3")), keys=keys)

    assert found["alerts_after"] > 0
    odd = {one["feature"]: one["events"] for one in found["still_odd"]}
    assert odd.keys() & {"action_surprise", "action_rarity_peers", "transition_surprise", "write_surprise"}
    assert sum(odd.values()) <= 10
    assert "target_surprise" not in odd


def test_detections_that_would_be_lost_are_told(past: Past) -> None:
    """High and critical ones but the one that is marked; and attacks that a person confirmed."""
    group = rule(kind="peer_group", rule_id="G", features=None)
    keys = [key_of("agent-1"), key_of("agent-3")]
    name = AgentName(keys[1], "acme", AS, "agent-3")
    confirmed = said(
        7, verdict="true_positive", agent=name, event_id="odd-3-8", from_ms=past.end_ms, until_ms=past.at_ms + MINUTE
    )
    other = msgspec.structs.replace(confirmed, verdict="false_positive", feedback_id="F8")

    found = past.run(past.job(group), [confirmed, other], keys)

    by_why = {why: [one for one in found["detections_lost"] if one["why"] == why] for why in ("confirmed", "level")}
    (attack,) = by_why["confirmed"]
    assert (attack["agent_id"], attack["feedback_id"], attack["level_with_rule"]) == ("agent-3", "F0007", "low")
    assert {one["agent_id"] for one in by_why["level"]} == {"agent-1", "agent-3"}
    assert all(one["level"] in ("high", "critical") for one in by_why["level"])
    assert found["agents_affected"] == 2
    marked = next(one for one in found["alerts_removed"] if one["level"] == "critical")
    again = past.run(past.job(group, marked["event_id"]), [confirmed], keys)
    assert all(one in found["detections_lost"] for one in again["detections_lost"])
    spoken_of = [one for one in found["detections_lost"] if one not in again["detections_lost"]]
    assert marked["event_id"] in {one["event_id"] for one in spoken_of}
    assert {one["agent_id"] for one in spoken_of} == {marked["agent_id"]}  # steps of its rise, see below
    assert [one["event_id"] for one in again["alerts_removed"] if one["marked"]] == [marked["event_id"]]


def test_steps_of_the_rise_that_is_marked_are_no_lost_detections(past: Past) -> None:
    """Who speaks of the top of a rise speaks of what led to it; the same alerts of another agent are lost."""
    group = rule(kind="peer_group", rule_id="G", features=None)
    keys = [key_of("agent-1"), key_of("agent-3")]
    alerts = [one for one in past.run(past.job(group), keys=keys)["alerts_removed"] if one["agent_id"] == "agent-1"]
    top = max(alerts, key=lambda one: RiskLevel[one["level"].upper()])
    below = alerts[: alerts.index(top)]
    assert "high" in [one["level"] for one in below]

    found = past.run(past.job(group, top["event_id"]), keys=keys)

    mine = [one for one in found["alerts_removed"] if one["agent_id"] == "agent-1"]
    steps = [one["event_id"] for one in mine if one["same_rise"]]
    assert steps == [one["event_id"] for one in below[-len(steps) :]] and steps
    lost = [one["event_id"] for one in found["detections_lost"]]
    assert not {*steps, top["event_id"]} & set(lost)
    theirs = [one for one in found["alerts_removed"] if one["agent_id"] == "agent-3"]
    assert {one["event_id"] for one in theirs if one["level"] in ("high", "critical")} <= set(lost)
    assert not any(one["same_rise"] for one in (*theirs, *found["detections_lost"]))
    assert found["detections_lost_count"] == len(lost)


def test_a_rise_ends_with_a_fall(past: Past) -> None:
    """What rose before the agent fell led to nothing that is marked, whatever comes above the marked one is none."""
    comparison = past.comparison(past.job(rule(), "3"))
    name = AgentName(key_of("agent-1"), "acme", AS, "agent-1")
    for number, (before, after) in enumerate([(1, 2), (2, 3), (2, 3), (3, 4), (3, 4)]):
        risen = msgspec.structs.replace(stored_rows.decision(number, name), previous_level=before, level=after)
        comparison.count_alert(msgspec.structs.replace(risen, event_id=str(number)), 1)
    comparison.finish()

    assert [one["event_id"] for one in comparison.lost_detections] == ["1", "4"]
    assert [one["event_id"] for one in comparison.removed_alerts if one["same_rise"]] == ["2"]


def test_attacks_that_are_still_found_are_not_lost(past: Past) -> None:
    """What agent-3 did with its actions counts whatever is said of its targets."""
    keys = [key_of("agent-3")]
    name = AgentName(keys[0], "acme", AS, "agent-3")
    confirmed = said(
        7, verdict="true_positive", agent=name, event_id="odd-3-8", from_ms=past.end_ms, until_ms=past.at_ms + MINUTE
    )
    made = rule(agent_id="agent-3", features=("target_surprise",), resource="supplier-2.example")

    found = past.run(past.job(made), [confirmed], keys)

    assert found["events_matched"] == 1
    assert [one for one in found["detections_lost"] if one["why"] == "confirmed"] == []


def test_the_past_is_replayed_as_it_was_lived(past: Past, kit: Any) -> None:
    """Ticks, releases and earlier rules act in both runs where they did, and only what happened since counts."""
    middle = past.at_ms - 100 * MINUTE
    release = {"command": "release", "tenant": "acme", "issuer": AS, "agent_id": "agent-1", "by": "ann"}
    more = [
        Record(RecordKind.CONTROL, 0, middle, json.dumps(release).encode()),
        Record(RecordKind.CONTROL, 0, middle, json.dumps(release | {"agent_id": "agent-3"}).encode()),
        kit.tick(past.at_ms + 3 * DAY),
    ]
    plain, lived = past.run(past.job(rule())), past.run(past.job(rule()), more=more)
    rises = [[one["time"] for one in found["alerts_removed"]] for found in (plain, lived)]
    assert rises[1][0] > rises[0][0]  # released behind its first odd event, it rises later

    earlier = rule(rule_id="F0")
    held = Record(RecordKind.CONTROL, 0, past.start_ms, msgspec.json.encode(AdoptFeedbackRule(earlier, "ann", "why")))
    found = past.run(past.job(rule()), more=[held])
    assert (found["alerts_before"], found["alerts_removed"]) == (0, [])
    ended = Record(
        RecordKind.CONTROL, 0, past.start_ms + 1, msgspec.json.encode(RevokeFeedbackRule(earlier, "ann", "why"))
    )
    assert past.run(past.job(rule()), more=[held, ended])["alerts_before"] == plain["alerts_before"]

    late = past.job(rule())
    assert past.run(msgspec.structs.replace(late, from_ms=past.at_ms + DAY))["window"]["events"] == 0


def test_a_sieve_lets_through_what_concerns_its_agents(past: Past, kit: Any, make: Any) -> None:
    """Splitting by agent changes nothing, so the others need not be replayed."""
    sieve = RecordFilter([key_of("agent-1")], IDENTITIES)
    mine = kit.record(make.event(1, 1, past.at_ms))
    assert [sieve.keeps(one) for one in (mine, kit.record(make.event(1, 2, past.at_ms)), kit.tick(1))] == [
        True,
        False,
        True,
    ]
    assert not sieve.keeps(Record(RecordKind.EVENT, 0, 1, b"nonsense"))
    assert not sieve.keeps(Record(RecordKind.DEAD, 0, 1, b"{}"))
    assert not sieve.keeps(Record(RecordKind.CONTROL, 0, 1, b"nonsense"))
    everything = past.run(past.job(rule()), keys=[key_of(f"agent-{n}") for n in range(12)])
    alone = past.run(past.job(rule()))
    assert alone["alerts_removed"] == everything["alerts_removed"]
    assert alone["events_matched"] == everything["events_matched"]


def test_lists_are_bounded_and_the_rest_is_counted(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a rule would remove."""
    monkeypatch.setattr("trustwatch.scoring.learning.feedback_preview.MAX_LISTED", 1)
    found = past.run(past.job(rule()))
    assert len(found["alerts_removed"]) == 1
    assert found["alerts_removed_count"] > 1
    assert RiskLevel[found["alerts_removed"][0]["level"].upper()] >= RiskLevel.MEDIUM
    assert np.isfinite(found["alerts_before"])
