"""Detection and false alerts by how much of an agent has been seen: the same days once with every agent a stranger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustwatch.scoring.engine import risk_levels

from ..attacks.attacked_enterprise import AttackedEnterprise, rename_agents, replay_scores
from .report import FigureTable

_EDGES = (0, 20, 100, 500)
_STRONG = 0.001


def run(world: AttackedEnterprise) -> list[FigureTable]:
    """One row per age; the last is the agents as the history knows them."""
    strange = replay_scores(world.model, rename_agents(world.events, "-new"))
    age = ages(world.agent)
    upper = (*_EDGES[1:], int(age.max()) + 1)
    rows = [
        _row(_span(low, high, int(age.max())), world, strange, (age >= low) & (age < high))
        for low, high in zip(_EDGES, upper, strict=True)
    ]
    rows.append(_row("known from the history", world, world.trail, np.ones(len(age), np.bool_)))
    columns = (
        "events seen of the agent",
        "calm events",
        "p <= 1 %",
        "p <= 0.1 %",
        "alerts per 10,000 calm events",
        "attacks begun",
        "strongest event p <= 0.1 %",
        "noticed",
    )
    note = "Strangers have the agent type of known agents: their peer group judges them from their first event."
    return [FigureTable("Age of an agent", columns, rows, note)]


def _span(low: int, high: int, oldest: int) -> str:
    return f"{low + 1} to {high}" if high <= oldest else f"more than {low}"


def ages(agent: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many events of its agent came before each row."""
    order = np.argsort(agent, kind="stable")
    ordered = agent[order]
    starts = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
    lengths = np.diff(np.r_[starts, len(agent)])
    age = np.empty(len(agent), np.int64)
    age[order] = np.arange(len(agent)) - np.repeat(starts, lengths)
    return age


def _row(
    name: str, world: AttackedEnterprise, trail: dict[str, NDArray[Any]], rows: NDArray[np.bool_]
) -> tuple[Any, ...]:
    raised = (trail["after"] >= risk_levels.MEDIUM) & (trail["after"] > trail["before"])
    calm = world.unattacked_rows & rows
    p, number = trail["p"][calm], max(1, int(calm.sum()))
    found = list(_attacks(world, trail, raised, rows))
    return (
        name,
        f"{number:,}",
        f"{(p <= 0.01).mean():.2%}",
        f"{(p <= 0.001).mean():.2%}",
        f"{1e4 * (raised & calm).sum() / number:.1f}",
        len(found),
        sum(strong for strong, _ in found),
        sum(noticed for _, noticed in found),
    )


def _attacks(
    world: AttackedEnterprise, trail: dict[str, NDArray[Any]], raised: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> Iterator[tuple[bool, bool]]:
    """Of each attack whose first malicious event is in *rows*: is its strongest event strong, was it noticed."""
    bad = world.malicious_rows
    for number in range(len(world.plans)):
        own = np.flatnonzero(world.attack == number)
        malicious = own[bad[own]]
        if len(malicious) and rows[malicious[0]]:
            involved = np.isin(world.agent, np.unique(world.agent[own]))
            during = np.arange(len(bad))
            hit = raised & involved & (during >= own[0]) & (during <= own[-1])
            yield bool((trail["p"][malicious] <= _STRONG).any()), bool(hit.any())
