"""The alerts of a back-test one by one: who, when, how odd. The sums are made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.features import layout
from trustwatch.ingest.printable_text import number_text
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.detector import FAMILIAR_EVENTS

from ..engine import risk
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..engine.settings import AlertBudget
from ..records.agents import ALERTING_LEVELS, AgentIdentity, RiskLevel


class BacktestAlert(NamedTuple):
    """An event that brought its agent from level *before* up to *level*, medium or above.

    *newcomer*: the model's history has too little of the agent to be compared with its own.
    """

    at_ms: int
    agent: AgentIdentity
    agent_type: str
    event_id: str
    before: int
    level: int
    concern: str
    risk_score: float
    p_value: float
    newcomer: bool

    def counts_at(self, level: int) -> bool:
        """True if it is one of the alerts of *level*."""
        return self.before < level <= self.level


def find_alerts(scored: ScoredBatch, agents: ResidentAgents, counted: npt.NDArray[np.bool_]) -> list[BacktestAlert]:
    """Alerts among the rows of a batch that are *counted*, right after it was applied."""
    before, after = scored.risk[:, risk.LEVEL_BEFORE], scored.levels[:, 1]
    return [
        _alert_of(row, scored, agents)
        for row in np.flatnonzero(counted & (after >= RiskLevel.MEDIUM) & (after > before)).tolist()
    ]


def _alert_of(row: int, scored: ScoredBatch, agents: ResidentAgents) -> BacktestAlert:
    event = scored.columns.events[row]
    return BacktestAlert(
        int(scored.columns.time_ms[row]),
        (event.tenant or "", event.agent.issuer or "", event.agent.id),
        scored.type_at(row, agents.types),
        event.id or "",
        int(scored.risk[row, risk.LEVEL_BEFORE]),
        int(scored.levels[row, 1]),
        CONCERNS[int(scored.risk[row, risk.CONCERN])],
        float(scored.risk_scores[row]),
        float(scored.p_values[row]),
        bool(scored.agent_numbers[row, layout.N_SHARED] < FAMILIAR_EVENTS),
    )


_MOST_TYPES = 3
_MOST_OF_THEM = 0.5
"""Share from which on a cause is named: most alerts have it."""

_CHANCE = 0.05
"""Probability of so many alerts from which on a budget that is kept explains them."""


class BudgetExcess(msgspec.Struct, frozen=True):
    """A level that got more alerts than its budget allows, per 1,000 agent-days, and what to do about it."""

    level: str
    alerts: int
    rate: float
    budget: float
    chance: float
    words: list[str]


def budget_excesses(
    budget: AlertBudget,
    rises: Sequence[int],
    agent_days: int,
    alerts: Sequence[BacktestAlert],
    tried: Sequence[tuple[AlertBudget, Sequence[int]]],
) -> list[BudgetExcess]:
    """Excess of every level over its budget."""
    excesses = []
    for position, (level, number) in enumerate(zip(ALERTING_LEVELS, rises, strict=True)):
        allowed = budget.by_level()[level.label]
        expected = allowed * agent_days / 1000.0
        if number <= expected:
            continue
        chance = chance_of_at_least(number, expected)
        words = [_chance_words(number, expected, chance)] if chance >= _CHANCE else []
        words += _causes([alert for alert in alerts if alert.counts_at(level)])
        words.append(_remedy(budget, level, position, expected, tried))
        excesses.append(BudgetExcess(level.label, number, number * 1000.0 / max(agent_days, 1), allowed, chance, words))
    return excesses


def chance_of_at_least(number: int, expected: float) -> float:
    """Probability of *number* or more where *expected* come on average and independently (Poisson).

    >>> round(chance_of_at_least(2, 0.5), 4)
    0.0902
    """
    term, below = math.exp(-expected), 0.0
    for count in range(number):
        below += term
        term *= expected / (count + 1)
    return min(max(1.0 - below, 0.0), 1.0)


def _chance_words(number: int, expected: float, chance: float) -> str:
    return (
        f"may be chance: where {number_text(expected, 2)} are expected, {number} or more come in {chance * 100:.0f} "
        "of 100 histories of this length; look at more days before a setting is changed"
    )


def _causes(alerts: Sequence[BacktestAlert]) -> list[str]:
    words = [_by_type(alerts)]
    (agent, most), *_ = Counter(alert.agent for alert in alerts).most_common(1)
    if most > max(1, _MOST_OF_THEM * len(alerts)):
        words.append(
            f"{most} of {len(alerts)} are of one agent, {agent[2]}: look at it first; "
            "what is normal for it is told by feedback (`false_positive`)"
        )
    newcomers = sum(alert.newcomer for alert in alerts)
    if newcomers >= _MOST_OF_THEM * len(alerts):
        words.append(
            f"{newcomers} of {len(alerts)} are of agents that the model's history hardly has: "
            "train on a history that has them"
        )
    return words


def _by_type(alerts: Sequence[BacktestAlert]) -> str:
    types = Counter(alert.agent_type for alert in alerts).most_common()
    sentences = []
    for kind, number in types[:_MOST_TYPES]:
        of_kind = [alert for alert in alerts if alert.agent_type == kind]
        agents = len({alert.agent for alert in of_kind})
        concern = Counter(alert.concern for alert in of_kind).most_common(1)[0][0]
        sentences.append(
            f"{number} by {agents} {'agent' if agents == 1 else 'agents'} of type {kind or '(none)'}, mostly {concern}"
        )
    more = len(types) - _MOST_TYPES
    return f"caused by: {'; '.join(sentences)}" + (f"; and {more} more types" if more > 0 else "")


def _remedy(
    budget: AlertBudget,
    level: RiskLevel,
    position: int,
    expected: float,
    tried: Sequence[tuple[AlertBudget, Sequence[int]]],
) -> str:
    """The largest smaller budget at which this history keeps the one in force; or that none of those tried does.

    A whole budget is named: its levels have to fall from one to the next.
    """
    smaller = sorted(
        (trial for trial in tried if trial[0].high < budget.high),
        key=lambda trial: -trial[0].high,
    )
    for other, numbers in smaller:
        if numbers[position] <= expected:
            return (
                f"set risk.alert_budget to {_setting(other)} (it is {_setting(budget)}): this history would have had "
                f"{numbers[position]}, where {number_text(expected, 2)} are accepted; attacks are found later then"
            )
    least = f", down to {_setting(smaller[-1][0])}," if smaller else ""
    return (
        f"no smaller risk.alert_budget that was tried{least} keeps it at {level.label}: what happens is new to the "
        "model, or an attack; look at the alerts, then train on a longer and newer history"
    )


def _setting(budget: AlertBudget) -> str:
    return "{" + ", ".join(f"{level}: {number:g}" for level, number in budget.by_level().items()) + "}"
