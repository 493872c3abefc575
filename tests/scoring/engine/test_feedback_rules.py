"""What a rule does to scoring: its features count as usual in its scope, everything else as ever, and it ends."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.identities import IdentityHasher, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES, FeedbackRules, feature_mask
from trustwatch.scoring.pipeline.processor import AppliedBatch, Processor
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import AdoptFeedbackRule, FeedbackRule, PartitionRule, RevokeFeedbackRule

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
USUAL = 0.05
"""p-value above which an event is nothing; up to 0.05 it is odd, and learned one time in eight."""
AS = "https://as.example"
TARGET = ("target_surprise", "resource_surprise", "action_target_surprise", "external_target", "novelty_1h")


def rule(agent: str | None = "agent-1", features: Any = TARGET, **more: Any) -> FeedbackRule:
    """A rule for one agent, or for the peer group `Payer`."""
    given = {
        "rule_id": "F1",
        "kind": "peer_group" if agent is None else "agent",
        "key": "",
        "tenant": "acme",
        "agent_type": "Payer",
        "features": features,
        "resource": None,
        "expires_ms": 10**15,
        "issuer": AS,
        "agent_id": agent or "agent-1",
        **more,
    }
    return FeedbackRule(**given)


def adopt(made: FeedbackRule, at_ms: int, withdraw: float = 0.0) -> Record:
    """A control record that brings a rule."""
    return Record(
        RecordKind.CONTROL,
        0,
        at_ms,
        msgspec.json.encode(AdoptFeedbackRule(made, "ann", "new supplier", withdraw, "D1")),
    )


def revoke(made: FeedbackRule, at_ms: int) -> Record:
    """A control record that ends a rule."""
    return Record(RecordKind.CONTROL, 0, at_ms, msgspec.json.encode(RevokeFeedbackRule(made, "ann", "wrong")))


class WorkingAgents:
    """Agents that have worked for a while, and what they do next."""

    def __init__(self, kit: Any, make: Any, capacity: int = 1000) -> None:
        self.kit, self.make = kit, make
        self.processor: Processor = kit.processor(capacity=capacity)
        self.offset = 0
        self.at_ms = make.START_MS + 30 * DAY
        self.number = 0
        self.dice = random.Random(7)
        self.apply(kit.records(make.stream(2, 1_500, start_ms=make.START_MS + 20 * DAY)))

    def apply(self, records: Sequence[Record]) -> AppliedBatch:
        """Apply records as one batch."""
        (batch,) = self.kit.batches(records, itertools.repeat(len(records)))
        applied = self.processor.apply(batch._replace(base_offset=self.offset))
        self.offset += len(records)
        return applied

    def event(self, agent: int = 1, **more: Any) -> Record:
        """The next event of an agent, ordinary but for *more*."""
        self.number += 1
        self.at_ms += self.dice.randrange(15, 35) * MINUTE
        action = make_action(self.dice)
        given = {"action": action, "session": f"s-{agent}-{self.at_ms // 7_200_000}", "bytes_out": 900, **more}
        given.setdefault("resource", {"target": f"host-{agent}-{self.number % 5}"})
        made = self.make.event(self.number, agent, self.at_ms, **given)
        made["id"] = f"n-{self.number}"
        return self.kit.record(made)  # type: ignore[no-any-return]

    def new_target(self, agent: int = 1, **more: Any) -> Record:
        """An event with a target that nobody has used."""
        return self.event(agent, resource={"target": f"supplier-{self.number}.example", "external": True}, **more)

    def state(self, agent: int = 1) -> Any:
        """Risk state of an agent."""
        key = np.array([self.processor.engine.identities.agent_key("acme", AS, f"agent-{agent}")], np.uint64)
        return self.processor.engine.risk[int(self.processor.engine.builder.admit(key)[0])]

    def flagged(self, agent: int = 1) -> list[Decision]:
        """Let an agent use new targets until it is high."""
        decisions: list[Decision] = []
        while self.state(agent)["level"] < RiskLevel.HIGH:
            decisions += self.apply([self.new_target(agent)]).decisions
            assert self.number < 200, "nobody was flagged"
        return decisions


@pytest.fixture
def world(kit: Any, make: Any) -> WorkingAgents:
    """A fresh world."""
    return WorkingAgents(kit, make)


def make_action(dice: random.Random) -> str:
    """An action as agents of the history choose it."""
    return ("read", "list", "write", "export", "login")[min(int(dice.expovariate(0.9)), 4)]


def p_of(applied: AppliedBatch) -> float:
    """p-value of the only event of a batch."""
    ((scored, _),) = applied.scored
    return float(scored.p_values[0])


def test_named_features_count_as_usual_and_others_as_ever(world: WorkingAgents) -> None:
    """A new target is ordinary under the rule; a new action is as odd as without it."""
    odd = p_of(world.apply([world.new_target()]))
    world.apply([adopt(rule(), world.at_ms)])

    assert odd < 0.05
    assert p_of(world.apply([world.new_target()])) > USUAL
    assert p_of(world.apply([world.new_target(action="wipe-disk", effect="delete")])) < 0.05


def test_a_rule_makes_nothing_more_usual_than_usual(world: WorkingAgents) -> None:
    """Values that are below the usual one stay; others sink to it, and not to nothing."""
    world.apply([adopt(rule(features=None), world.at_ms)])
    usual = world.processor.engine.model.detector.usual_values()
    ((scored, _),) = world.apply([world.new_target()]).scored
    free = feature_mask(None)

    assert (scored.vectors[0][free] <= usual[free]).all()
    assert (usual >= 0.0).all()
    assert usual[FEATURE_INDEX["hour_surprise"]] > 0.1  # no hour is without any surprise
    groups = scored.columns.names[:, event_columns.GROUP]
    level = float(world.processor.engine.model.detector.assess(usual[None, :], groups)[0].p_value[0])
    assert USUAL < level < 1.0


def test_other_agents_and_other_peer_groups_are_left_alone(world: WorkingAgents) -> None:
    """An agent's rule is its own; a peer group's is its members'."""
    world.apply([adopt(rule("agent-1"), world.at_ms)])
    assert p_of(world.apply([world.new_target(3)])) < 0.05

    world.apply([adopt(rule(None, rule_id="F2"), world.at_ms)])
    assert p_of(world.apply([world.new_target(3)])) > USUAL
    assert p_of(world.apply([world.new_target(2)])) < 0.05  # a reader


def test_who_only_claims_a_peer_group_is_not_covered_by_its_rule(world: WorkingAgents) -> None:
    """Self-asserted events may raise risk; no rule of a group they claim keeps them from it."""
    world.apply([adopt(rule(None), world.at_ms)])
    claimed = {"agent_self_asserted": True, "agent_type": "Payer"}

    assert p_of(world.apply([world.new_target(2, **claimed)])) < 0.05
    assert p_of(world.apply([world.new_target(3, **claimed)])) < 0.05


def test_a_resource_narrows_a_rule(world: WorkingAgents) -> None:
    """By target or by resource id; a URL stands for its host."""
    made = rule(resource="https://supplier.example/invoices?page=2")
    world.apply([adopt(made, world.at_ms)])

    there = {"resource": {"target": "https://supplier.example/other", "external": True}}
    assert p_of(world.apply([world.event(**there)])) > USUAL
    assert p_of(world.apply([world.new_target()])) < 0.05
    world.apply([adopt(rule(resource="acct-9", rule_id="F2"), world.at_ms)])
    assert p_of(world.apply([world.event(resource={"id": "acct-9"})])) > USUAL


def test_hard_signals_fire_as_ever(world: WorkingAgents) -> None:
    """Not even a rule for everything silences one."""
    world.apply([adopt(rule(features=None), world.at_ms)])
    stolen = {"credential": {"method": "none", "thumbprint": "stolen"}}
    ((scored, _),) = world.apply([world.event(**stolen)]).scored

    assert float(scored.signals[0].sum()) == 7.0  # a key that was never registered, by a weaker method
    (named,) = [
        world.processor.engine.signal_rules.fired_signals(scored.columns, 0, scored.vectors, scored.observations)
    ]
    assert {signal.code for signal in named} == {"unregistered_key", "method_downgrade"}
    assert not feature_mask(sorted(PROTECTED_FEATURES)).any()


def test_a_rule_ends_with_its_time_whichever_clock_is_put_back(world: WorkingAgents) -> None:
    """By the time of the event and by that of its arrival, the later one."""
    made = rule(expires_ms=world.at_ms + 60 * MINUTE)
    world.apply([adopt(made, world.at_ms)])
    assert p_of(world.apply([world.new_target()])) > USUAL

    world.at_ms += 60 * MINUTE
    old = world.new_target()
    assert p_of(world.apply([old])) < 0.05
    body = json.loads(world.new_target().payload) | {"time": world.make.stamp(made.expires_ms - MINUTE)}
    assert p_of(world.apply([world.kit.record(body, received_ms=made.expires_ms + 1)])) < 0.05
    assert len(world.processor.engine.feedback_rules) == 1
    world.apply([world.kit.tick(made.expires_ms)])
    assert len(world.processor.engine.feedback_rules) == 0


def test_what_led_to_the_decision_is_withdrawn_and_other_evidence_stays(world: WorkingAgents) -> None:
    """The level follows from what is left, at once, and says who said so."""
    decisions = world.flagged()
    marked = decisions[-1]
    statistic = float(marked.evidence["statistic"])
    later = world.apply([world.event(action="wipe-disk", effect="delete")])
    concern = list(marked.evidence["statistics"].values()).index(statistic)
    added = float(world.state()["statistic"][concern]) - statistic
    assert added > 0.5
    assert not later.dead_letters

    (said,) = world.apply([adopt(rule(), world.at_ms, withdraw=statistic)]).decisions

    assert (said.cause, said.level, said.reasons[0].code) == ("feedback", RiskLevel.LOW, "feedback")
    assert "ann" in said.reasons[0].text
    assert "new supplier" in said.reasons[0].text
    assert float(world.state()["statistic"][concern]) == pytest.approx(added)
    again = world.apply([adopt(rule(), world.at_ms, withdraw=statistic)])
    assert again.decisions == []
    assert float(world.state()["statistic"][concern]) == pytest.approx(added)


def test_honest_lasting_change_counts_once_and_is_learned_under_a_rule(kit: Any, make: Any) -> None:
    """An agent that uses one new target from now on is odd once a day, until it is learned; a rule has it learned."""
    supplier = {"resource": {"target": "new-supplier.example", "external": True}}

    def use(world: WorkingAgents, count: int) -> tuple[list[float], list[int]]:
        found = [(p_of(world.apply([world.event(**supplier)])), int(world.state()["level"])) for _ in range(count)]
        return [p for p, _ in found], [level for _, level in found]

    alone, told = WorkingAgents(kit, make), WorkingAgents(kit, make)
    made = rule(resource="new-supplier.example", expires_ms=told.at_ms + 24 * HOUR)
    told.apply([adopt(made, told.at_ms)])
    for world, odd in ((alone, True), (told, False)):
        p_values, levels = use(world, 30)
        assert (p_values[0] < 0.05) == odd
        assert sum(p < 0.05 for p in p_values[1:]) <= 1 + odd
        assert max(levels) <= RiskLevel.LOW
    told.at_ms = made.expires_ms + 25 * HOUR  # the rule is over, what was learned stays
    assert use(told, 1)[0][0] > 0.05


def test_the_session_and_the_hour_do_not_remember_what_counted_as_usual(kit: Any, make: Any) -> None:
    """Strangeness of the session and the count of new names are as if the event had named a known target."""
    plain, covered = WorkingAgents(kit, make), WorkingAgents(kit, make)
    covered.apply([adopt(rule(), covered.at_ms)])
    plain.apply([adopt(rule("nobody"), plain.at_ms)])

    def after(world: WorkingAgents) -> Any:
        for _ in range(4):
            world.apply([world.new_target(session="one")])
        ((scored, _),) = world.apply([world.event(session="one")]).scored
        return scored.vectors[0][[FEATURE_INDEX["session_strangeness"], FEATURE_INDEX["novelty_1h"]]]

    odd, usual = after(plain), after(covered)
    assert (usual < 0.6 * odd).all()


def test_revoking_brings_it_back_for_good(world: WorkingAgents) -> None:
    """Also where the record that brings the rule comes again, or comes late."""
    made = rule()
    world.apply([adopt(made, world.at_ms)])
    assert p_of(world.apply([world.new_target()])) > USUAL
    world.apply([revoke(made, world.at_ms)])
    assert p_of(world.apply([world.new_target()])) < 0.05
    world.apply([adopt(made, world.at_ms)])
    assert p_of(world.apply([world.new_target()])) < 0.05

    late = rule(rule_id="F9")
    world.apply([revoke(late, world.at_ms), adopt(late, world.at_ms)])
    assert p_of(world.apply([world.new_target()])) < 0.05


def test_matches_are_counted_and_our_own_denials_are_none(world: WorkingAgents) -> None:
    """What each rule did, for those who look after it."""
    world.apply([adopt(rule(), world.at_ms)])
    denied = {"outcome": "denied", "error": "ext_authz_denied"}
    world.apply([world.new_target(), world.new_target(3), world.new_target(**denied), world.event()])

    (held,) = world.processor.engine.feedback_rules.uncommitted(0, 4)
    assert (held.matched, held.epoch, held.until_offset) == (2, 4, -1)
    assert held.last_ms == world.at_ms
    world.processor.engine.feedback_rules.begin_commit(0, 4)
    assert world.processor.engine.feedback_rules.uncommitted(0, 4) == []


def test_a_restart_goes_on_with_the_same_rules(kit: Any, make: Any) -> None:
    """What was stored is all there is to know."""
    world = WorkingAgents(kit, make)
    ended = rule(rule_id="F0")
    world.apply([adopt(ended, world.at_ms), revoke(ended, world.at_ms), adopt(rule(), world.at_ms)])
    world.apply([world.new_target()])
    stored: list[PartitionRule] = world.processor.engine.feedback_rules.uncommitted(0, 1)

    rules = FeedbackRules(make.SALT, world.processor.engine.model.detector.usual_values(), IdentityHasher(make.SALT))
    rules.restore(stored)
    world.processor.engine.feedback_rules = rules
    assert len(rules) == 1
    assert p_of(world.apply([world.new_target()])) > USUAL
    world.apply([adopt(ended, world.at_ms)])
    assert len(rules) == 1
    (held,) = rules.uncommitted(0, 2)
    assert held.matched == 2


def test_a_rule_of_0_1_goes_on(world: WorkingAgents) -> None:
    """It knows its agent by the hash of 0.1, and speaks of no other."""
    old = rule(key=str(unkeyed_agent_key("acme", AS, "agent-1")), issuer="", agent_id="")
    world.apply([adopt(old, world.at_ms)])

    assert p_of(world.apply([world.new_target(1)])) > USUAL
    assert p_of(world.apply([world.new_target(2)])) < USUAL


def test_an_erased_name_leaves_rules(world: WorkingAgents) -> None:
    """The rule about it speaks of nobody; a rule of another tenant, about an agent of that very name, holds."""
    world.apply([adopt(rule(), world.at_ms), adopt(rule(rule_id="F2", tenant="globex"), world.at_ms)])
    world.processor.engine.feedback_rules.begin_commit(0, 1)
    world.processor.engine.feedback_rules.erase(ErasureSubject("agent", "acme", AS, "agent-1", "erased~1"))

    (changed,) = world.processor.engine.feedback_rules.uncommitted(0, 2)
    assert (changed.rule.rule_id, changed.rule.agent_id, changed.epoch) == ("F1", "erased~1", 1)
    assert p_of(world.apply([world.new_target()])) < USUAL


@pytest.mark.parametrize("name", ["agent", "kind", "rule_id", "acme", "Payer", "F1", "target_surprise"])
def test_erasing_a_word_of_rules_breaks_none(world: WorkingAgents, name: str) -> None:
    """An agent may be called like a member of a rule, its tenant or a feature: the rule stays what it is."""
    world.apply([adopt(rule(), world.at_ms)])
    world.processor.engine.feedback_rules.erase(ErasureSubject("agent", "acme", AS, name, "erased~1"))

    assert p_of(world.apply([world.new_target()])) > USUAL


def test_a_rule_of_0_1_speaks_of_its_tenant_alone(world: WorkingAgents) -> None:
    """Its hash may be that of another tenant's agent, too: names that share one were searched for."""
    key = str(unkeyed_agent_key("acme", AS, "agent-1"))
    world.apply([adopt(rule(key=key, issuer="", agent_id="", tenant="globex"), world.at_ms)])

    assert p_of(world.apply([world.new_target(1)])) < USUAL


def _sizes(seed: int) -> Iterator[int]:
    dice = random.Random(seed)
    while True:
        yield dice.choice((1, 2, 7, 50, 333))


def test_batches_change_no_bit_of_it(kit: Any, make: Any) -> None:
    """The same records in any batches and with little memory end in the same states, decisions and counts."""
    events = kit.records(make.stream(5, 1_200, start_ms=make.START_MS + 20 * DAY, odd=0.15))
    group = rule(None, ("action_surprise", "target_surprise", "network_surprise"), rule_id="G")
    agent = rule("agent-2", None, expires_ms=events[900].received_ms)
    records: list[Record] = []
    for number, record in enumerate(events):
        records.append(record)
        if number == 200:
            records += [adopt(group, record.received_ms), adopt(agent, record.received_ms, withdraw=3.0)]
        if number == 800:
            records.append(revoke(group, record.received_ms))
        if number % 97 == 0:
            records.append(kit.tick(record.received_ms))

    def run(sizes: Iterator[int], capacity: int) -> tuple[Any, ...]:
        processor = kit.processor(capacity=capacity)
        decisions = [one for batch in kit.batches(records, sizes) for one in processor.apply(batch).decisions]
        rows = {row.name.agent_id: (row.features, row.risk) for row in processor.engine.agent_states.changed_rows()}
        rows |= {row.name.agent_id: (row.features, row.risk) for row in processor.engine.agent_states.evicted.values()}
        return decisions, rows, processor.engine.feedback_rules.uncommitted(0, 1)

    whole = run(itertools.repeat(len(records)), 1000)
    assert sum(held.matched for held in whole[2]) > 100
    for seed, capacity in ((1, 1000), (2, 13)):
        assert run(_sizes(seed), capacity) == whole
