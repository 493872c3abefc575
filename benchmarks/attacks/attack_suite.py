"""The attack suite's table: noticed or not, after how many events, and what calm agents cost in false alerts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trustwatch.ingest.timestamps import HOUR_MS, MINUTE_MS
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.simulator.attack_scenarios import SCENARIOS

from ..detection.report import FigureTable, counted_share
from .additional_scenarios import ADDITIONAL_SCENARIOS, POISONED_HISTORY_SCENARIOS
from .alarm_price import gather_evidence, pool_evidence, tables_of_evidence
from .asked_attacks import ask_about_enterprise, table_of_asked
from .attacked_enterprise import AttackedEnterprise

PRICED = "exfiltration", "mimicry_post"
"""Kinds of attacks that fewer were noticed of than was wanted."""

_LINGER_MS = HOUR_MS
"""An alert this long after the last event of an attack still counts as noticing it."""


class AttackOutcome(NamedTuple):
    """One attack: noticed, before its first malicious event, malicious events until then, minutes from the first."""

    name: str
    noticed: bool
    early: bool
    events: int
    minutes: float
    malicious: int
    highest: int


def outcomes(world: AttackedEnterprise) -> Iterator[AttackOutcome]:
    """What became of each attack that was played in the judged days."""
    time_ms, bad, raised = world.trail["time_ms"], world.malicious_rows, world.level_rises
    for number, plan in enumerate(world.plans):
        own = np.flatnonzero(world.attack == number)
        malicious = own[bad[own]]
        if not len(malicious):
            continue
        involved = np.isin(world.agent, np.unique(world.agent[own]))
        during = (time_ms >= time_ms[own[0]]) & (time_ms <= time_ms[own[-1]] + _LINGER_MS)
        alerts = np.flatnonzero(involved & during & raised)
        highest = int(world.trail["after"][own].max())
        if not len(alerts):
            yield AttackOutcome(plan.scenario.name, False, False, 0, 0.0, len(malicious), highest)
            continue
        first = alerts[0]
        waited = (time_ms[first] - time_ms[malicious[0]]) / MINUTE_MS
        before = int((malicious <= first).sum())
        yield AttackOutcome(plan.scenario.name, True, before == 0, before, max(0.0, waited), len(malicious), highest)


class SuiteResult(NamedTuple):
    """What became of one enterprise's attacks, and what its agents without any attack cost.

    Attributes:
        outcomes: of each attack.
        alerts: rises to medium or more of agents without any attack.
        agents, alerted: such agents, and those of them that rose.
        agent_days: days on which such agents were active, summed.
    """

    outcomes: list[AttackOutcome]
    alerts: int
    agents: int
    alerted: int
    agent_days: int


def judge(world: AttackedEnterprise) -> SuiteResult:
    """What became of an enterprise under attack."""
    calm = world.unattacked_rows
    agents, alerted = len(np.unique(world.agent[calm])), len(np.unique(world.agent[calm & world.level_rises]))
    return SuiteResult(
        list(outcomes(world)), int((world.level_rises & calm).sum()), agents, alerted, world.agent_days(calm)
    )


def run(clean: Iterable[AttackedEnterprise], poisoned: AttackedEnterprise) -> list[FigureTable]:
    """Tables of the *clean* enterprises, pooled, and of the *poisoned* one."""
    judged, asked, evidence = [], [], []
    for world in clean:
        judged.append(judge(world))
        asked.append(ask_about_enterprise(world))
        evidence.append(gather_evidence(world, [outcome.noticed for outcome in judged[-1].outcomes]))
    names = (*SCENARIOS, *ADDITIONAL_SCENARIOS)
    return [
        _table("Attacks behind a clean history", judged, names),
        table_of_asked(asked, names),
        *tables_of_evidence(pool_evidence(evidence), PRICED),
        _table("Attacks that poisoned the history", [judge(poisoned)], tuple(POISONED_HISTORY_SCENARIOS)),
    ]


def _table(title: str, results: Sequence[SuiteResult], names: tuple[str, ...]) -> FigureTable:
    found: dict[str, list[AttackOutcome]] = {name: [] for name in names}
    for outcome in (outcome for result in results for outcome in result.outcomes):
        found[outcome.name].append(outcome)
    summaries = {
        name: scenario.summary
        for name, scenario in {**SCENARIOS, **ADDITIONAL_SCENARIOS, **POISONED_HISTORY_SCENARIOS}.items()
    }
    rows = [_row(name, summaries[name], seen) for name, seen in found.items() if seen]
    columns = (
        "attack",
        "what happens",
        "noticed",
        "before the first malicious event",
        "malicious events until noticed",
        "of",
        "minutes until noticed",
    )
    return FigureTable(title, columns, rows, _false_alerts(results))


def _row(name: str, summary: str, seen: list[AttackOutcome]) -> tuple[str, ...]:
    hits = [outcome for outcome in seen if outcome.noticed]
    return (
        name,
        summary,
        counted_share(len(hits), len(seen)),
        str(sum(outcome.early for outcome in hits)),
        f"{np.median([outcome.events for outcome in hits]):.0f}" if hits else "–",
        f"{np.median([outcome.malicious for outcome in seen]):.0f}",
        f"{np.median([outcome.minutes for outcome in hits]):.0f}" if hits else "–",
    )


def _false_alerts(results: Sequence[SuiteResult]) -> str:
    """What agents without any attack cost in the same days."""
    alerts, agents, hit, days = (
        sum(getattr(result, name) for result in results) for name in ("alerts", "agents", "alerted", "agent_days")
    )
    return (
        f"{len(results)} {'enterprises' if len(results) > 1 else 'enterprise'}. Noticed is a rise to *medium* or more "
        f"by the default budget; numbers of events and minutes are medians, intervals 95 %. In the same days {hit} of "
        f"{agents} agents without any attack rose to *medium* or more, {alerts} times in {days} agent-days: "
        f"{1000 * alerts / max(days, 1):.0f} per 1,000 (budget {AlertBudget().medium:.0f})."
    )
