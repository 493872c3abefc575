"""Champion and challenger in shadow: over the same events, behind their own histories, compared at the same budget."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.source import Record, RecordBatch
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.settings import AlertBudget, RiskEvaluationSettings
from trustwatch.scoring.learning.promotion import (
    AlertAgreement,
    LabelledAttackStats,
    ShadowComparison,
    ShadowModelStats,
    assess_promotion,
    comparison_from_dict,
)
from trustwatch.scoring.learning.shadow import ChampionChallengerRun, ShadowRun, read_event_time
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.feedback import Feedback

from ...support.stored_rows import said

HOUR, DAY = 3_600_000, 86_400_000
BUDGET = {"medium": 20.0, "high": 5.0, "critical": 1.0}


@pytest.fixture
def day(make: Any, kit: Any) -> list[Record]:
    """Events of two days behind the model's history, with odd ones."""
    return list(kit.records(make.stream(9, 1_200, start_ms=make.START_MS + 40 * DAY, odd=0.06)))


def run(kit: Any, **settings: Any) -> ShadowRun:
    """A model in shadow."""
    return ShadowRun(kit.model, EngineSettings(capacity=1_000, **settings))


def duel(
    kit: Any, records: list[Record], size: int, start: int = 0, budget: AlertBudget | None = None
) -> ChampionChallengerRun:
    """The same model twice; with *budget* the challenger has another one."""
    found = ChampionChallengerRun({0: start}, ("old", "new"))
    champion, challenger = (
        run(kit),
        run(kit) if budget is None else run(kit, risk=RiskEvaluationSettings(alert_budget=budget.by_level())),
    )
    for batch in kit.batches(records, itertools.repeat(size)):
        found.compare_batch(list(champion.apply(batch)), challenger.apply(batch))
    return found


def attack(key: int, first: int, last: int) -> Feedback:
    """Somebody calls that an attack."""
    agent = AgentName(key, "acme", "https://as.example", "x")
    return said(1, verdict="true_positive", agent=agent, event_time_ms=first, from_ms=first, until_ms=last)


def test_shadow_scores_as_live(kit: Any, day: list[Record]) -> None:
    """The identical path: same p-values and levels as a processor of the pipeline gives, whatever the cuts."""
    live = kit.processor(None, 1_000)
    scored = [part for batch in kit.batches(day, itertools.repeat(300)) for part, _ in live.apply(batch).scored]
    shadow = run(kit)
    found = [part for batch in kit.batches(day, itertools.repeat(71)) for part, _ in shadow.apply(batch)]
    for name in ("p_values", "levels"):
        one, other = (np.concatenate([getattr(part, name) for part in parts]) for parts in (scored, found))
        assert np.array_equal(one, other)


def test_what_was_learned_is_not_run_again(make: Any, kit: Any) -> None:
    """Events of the model's own history are left out; what comes between and behind keeps its offset."""
    old = kit.records(make.stream(1, 60))
    new = kit.records(make.stream(2, 40, start_ms=make.START_MS + 40 * DAY))
    mixed = [*old[:30], *new[:20], *old[30:], *new[20:]]
    found = run(kit).apply(RecordBatch(0, 100, mixed))
    assert [offset for _, offsets in found for offset in offsets.tolist()] == [*range(130, 150), *range(180, 200)]


def test_the_same_model_agrees_with_itself(kit: Any, day: list[Record]) -> None:
    """No gain, whatever it does; agent-days are counted once."""
    figures = duel(kit, day, 100).comparison([])
    agents = {(event_key(kit, record), read_event_time(record.payload) // DAY) for record in day}

    assert figures.agent_days == len(agents)
    assert figures.events == len(day)
    assert (figures.agreement.only_champion, figures.agreement.only_challenger) == (0, 0)
    assert figures.champion.alerts == figures.challenger.alerts
    assert figures.champion.alerts["medium"] > 0
    assert any("no measured gain" in reason for reason in assess_promotion(figures, BUDGET, 0).reasons)


def event_key(kit: Any, record: Record) -> int:
    """Agent of a record."""
    return int(kit.columns([json.loads(record.payload)]).names[0, 0])


def test_cuts_change_no_figure(kit: Any, day: list[Record]) -> None:
    """Whatever the batches."""
    assert msgspec.to_builtins(duel(kit, day, 37).comparison([])) == msgspec.to_builtins(
        duel(kit, day, 1_000).comparison([])
    )


def test_counting_begins_at_an_offset(kit: Any, day: list[Record]) -> None:
    """What comes before is run all the same: agents have their past when it begins."""
    whole, late = duel(kit, day, 100), duel(kit, day, 100, start=700)
    assert late.comparison([]).events == 500
    assert late.comparison([]).from_offset == 700
    assert late.agent_days < whole.agent_days


def test_a_stricter_challenger_alerts_less(kit: Any, day: list[Record]) -> None:
    """And on fewer agent-days, which is told."""
    figures = duel(kit, day, 100, budget=AlertBudget(0.02, 0.005, 0.001)).comparison([])
    assert figures.challenger.alerts["medium"] < figures.champion.alerts["medium"]
    assert figures.agreement.only_champion > figures.agreement.only_challenger
    assert figures.challenger.per_1000["medium"] == pytest.approx(
        1000 * figures.challenger.alerts["medium"] / figures.agent_days, abs=0.001
    )


def test_labels_say_what_was_kept_and_lost(kit: Any, day: list[Record]) -> None:
    """A detection of the champion alone is lost; its alerts do not count as false."""
    found = duel(kit, day, 100, budget=AlertBudget(0.02, 0.005, 0.001))
    champion, challenger = ({rise.key for rise in side.rises} for side in found._sides)
    lost = next(iter(champion - challenger), None)
    assert lost is not None
    first = min(rise.at_ms for rise in found._sides[0].rises if rise.key == lost)
    plain = found.comparison([])
    figures = found.comparison([attack(lost, first - HOUR, first + HOUR), attack(77, first, first)])

    assert figures.labels == LabelledAttackStats(attacks=1, kept=0, lost=1, won=0)
    assert (figures.champion.detected, figures.challenger.detected) == (1, 0)
    assert figures.champion.delay_s == 3_600.0
    assert figures.champion.false_alerts["medium"] < plain.champion.false_alerts["medium"]
    assert figures.agreement.only_champion < plain.agreement.only_champion
    assert any("misses 1 labelled" in reason for reason in assess_promotion(figures, BUDGET, 0).reasons)


def made(**values: Any) -> ShadowComparison:
    """Figures of two models that alert as often as they may."""
    none = {"medium": 2, "high": 1, "critical": 0}
    one = ShadowModelStats("old", none, values.pop("old", none), {name: 0.0 for name in none}, 0, None)
    other = ShadowModelStats("new", none, values.pop("new", none), {name: 0.0 for name in none}, 0, None)
    given = {"agent_days": 200, "events": 1, "from_offset": 0, "to_offset": 1, **values}
    return ShadowComparison(one, other, **given)


def test_figures_come_back_from_the_store() -> None:
    """And what another program wrote is no figures."""
    figures = made(agreement=AlertAgreement(1, 2, 3, 4))
    assert comparison_from_dict(msgspec.to_builtins(figures)) == figures
    assert comparison_from_dict({}) is None
    assert comparison_from_dict({"agent_days": "many"}) is None


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"agreement": AlertAgreement(1, 180, 6, 0)}, True),
        ({"agreement": AlertAgreement(1, 180, 4, 0)}, False),
        ({"agreement": AlertAgreement(1, 180, 0, 6)}, False),
        ({"labels": LabelledAttackStats(3, 2, 0, 1)}, True),
        ({"labels": LabelledAttackStats(3, 1, 1, 1)}, False),
        ({"old": {"medium": 40, "high": 1, "critical": 0}}, True),
        ({"old": {"medium": 40, "high": 1, "critical": 0}, "new": {"medium": 30, "high": 1, "critical": 0}}, False),
        ({"agreement": AlertAgreement(1, 180, 60, 0), "agent_days": 40}, False),
    ],
)
def test_only_a_measured_gain_within_the_budget_promotes(values: dict[str, Any], allowed: bool) -> None:
    """Six discordant agent-days to none are no chance, four may be."""
    assert (assess_promotion(made(**values), BUDGET, 50).reasons == []) is allowed
