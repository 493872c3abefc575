"""A small enterprise under attack: calls are asked about as the service would be, evidence is that of levels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks.additional_scenarios import ADDITIONAL_SCENARIOS
from benchmarks.attacks.alarm_price import gather_evidence
from benchmarks.attacks.asked_attacks import ask_about_enterprise, hold_by_level
from benchmarks.attacks.attack_suite import judge
from benchmarks.attacks.attacked_enterprise import AttackedEnterprise, EnterpriseSize, clean_history, domains
from benchmarks.detection.call_verdicts import as_questions
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.engine.announced_paths import as_parts
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.simulator.attack_scenarios import SCENARIOS


@pytest.fixture(scope="module")
def world() -> AttackedEnterprise:
    return clean_history(EnterpriseSize(40, 4, 2, 1, 40.0), 5)


def test_agents_are_untouched_until_their_attack_begins(world: AttackedEnterprise) -> None:
    untouched = world.untouched_rows

    assert untouched[world.unattacked_rows].all() and not untouched[world.attack >= 0].any()
    for agent in np.unique(world.agent[world.attack >= 0]).tolist():
        own = world.agent == agent
        begun = np.flatnonzero(own & (world.attack >= 0))[0]
        assert untouched[own].tolist() == (np.flatnonzero(own) < begun).tolist()


def test_each_call_is_asked_about_as_the_service_would_be(world: AttackedEnterprise) -> None:
    """One by one, at the level and with the announced keys of that moment."""
    asked = ask_about_enterprise(world)
    names = [attack.name for attack in asked.attacks]
    scorer = CallScorer(world.model, {}, domains())
    questions = list(as_questions(world.events))
    calls = np.array([question.type in ("tool.call", "api.call", "a2a.message") for question in questions])

    assert set(names) <= set(SCENARIOS) | set(ADDITIONAL_SCENARIOS) and len(names) > 10
    assert int(asked.honest.sum()) == int((world.untouched_rows & calls).sum())
    found = asked.attacks[names.index("exfiltration")]
    number = [plan.scenario.name for plan in world.plans].index("exfiltration")
    own = np.flatnonzero(world.malicious_rows & (world.attack == number) & calls)
    assert len(own) == len(found.waits)
    levels = world.trail["level"][own]
    trusted = as_parts(world.trail["announced"][own]) & (levels < RiskLevel.MEDIUM)[:, None]
    by_model = [
        scorer.score_many([questions[row]], parts[None, :])[0].exceeds
        for row, parts in zip(own.tolist(), trusted, strict=True)
    ]
    assert found.by_model.tolist() == by_model
    held = hold_by_level([questions[row] for row in own.tolist()], levels)
    assert found.waits.tolist() == (np.array(by_model) | held).tolist()
    assert found.reads.tolist() == [questions[row].effect == "read" for row in own.tolist()]


def test_evidence_is_what_levels_rest_on(world: AttackedEnterprise) -> None:
    """Whoever reached medium by its own events has all of what medium asks for, and nobody else does."""
    outcomes = judge(world).outcomes

    found = gather_evidence(world, [outcome.noticed for outcome in outcomes])

    assert [attack.name for attack in found.attacks] == [outcome.name for outcome in outcomes]
    assert 0 < sum(attack.share >= 1.0 for attack in found.attacks) < len(outcomes)
    for attack, outcome in zip(found.attacks, outcomes, strict=True):
        assert (attack.share >= 1.0) == (outcome.highest >= RiskLevel.MEDIUM), attack.name
        assert 0.0 < attack.p_value <= 1.0
    untouched = world.untouched_rows
    assert len(found.p_values) == untouched.sum()
    days = np.stack([world.agent[untouched], world.trail["time_ms"][untouched] // DAY_MS])
    assert len(found.share) == len(found.least_p) == len(found.features) == np.unique(days, axis=1).shape[1]
    raised = untouched & (world.trail["after"] >= RiskLevel.MEDIUM) & world.level_rises
    assert (found.share >= 1.0).any() == raised.any()
    assert found.least_p.min() == found.p_values.min()
