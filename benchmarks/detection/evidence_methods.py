"""Ways to gather evidence over events, at equal false alarms: how many malicious events until each notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.timestamps import DAY_MS

from ..attacks.attacked_enterprise import AttackedEnterprise
from .report import FigureTable

Floats = NDArray[np.float64]
RATES = (20.0, 100.0)
"""Agent-days with an alarm per 1,000."""
_KEPT = 0.9
_DRIFT = 2.0


def leaky_sum(p: Floats) -> Floats:
    """`S = 0.9 S - ln p`."""
    return _run(p, lambda total, surprise: _KEPT * total + surprise)


def cusum(p: Floats) -> Floats:
    """`S = max(0, S - ln p - 2)`."""
    return _run(p, lambda total, surprise: max(0.0, total + surprise - _DRIFT))


def e_detector(p: Floats) -> Floats:
    """`S = max(0, S) + ln(p**-0.5 / 2)`: the bet of ours, without damping and without confidence."""
    return _run(p, lambda total, surprise: max(0.0, total) + 0.5 * surprise - np.log(2.0))


def _run(p: Floats, step: Callable[[float, float], float]) -> Floats:
    out, total = np.empty(len(p)), 0.0
    for at, surprise in enumerate((-np.log(p)).tolist()):
        total = step(total, surprise)
        out[at] = total
    return out


METHODS: dict[str, Callable[[Floats], Floats]] = {
    "single events (no memory)": lambda p: -np.log(p),
    "leaky sum": leaky_sum,
    "CUSUM": cusum,
    "e-detector without damping": e_detector,
}


def run(world: AttackedEnterprise) -> list[FigureTable]:
    """One row per method and rate of false alarms; ours is the statistic of the live path itself."""
    by_agent = [np.flatnonzero(world.agent == number) for number in range(int(world.agent.max()) + 1)]
    statistics = {name: _per_agent(world, by_agent, method) for name, method in METHODS.items()}
    statistics["single events by anomaly score"] = world.trail["anomaly"]
    statistics["ours"] = world.trail["statistic"]
    rows = [
        (f"{rate:.0f}", name, *_judge(world, statistic, rate))
        for rate in RATES
        for name, statistic in statistics.items()
    ]
    columns = (
        "agent-days with a false alarm per 1,000",
        "method",
        "false alarms",
        "attacks noticed",
        "of",
        "malicious events until noticed (median)",
        "upper quartile",
    )
    note = "Thresholds are chosen on the agents without attacks in the same days, so that all have equal false alarms."
    return [FigureTable("Evidence over several events", columns, rows, note)]


def _per_agent(
    world: AttackedEnterprise, by_agent: list[NDArray[np.int64]], method: Callable[[Floats], Floats]
) -> Floats:
    out = np.zeros(len(world.agent))
    for rows in by_agent:
        out[rows] = method(world.trail["p"][rows])
    return out


def threshold(statistic: Floats, blocks: NDArray[np.int64], allowed: int) -> float:
    """The lowest threshold that at most *allowed* blocks exceed."""
    _, at = np.unique(blocks, return_inverse=True)
    largest = np.full(int(at.max()) + 1, -np.inf)
    np.maximum.at(largest, at, statistic)
    ordered = np.sort(largest)[::-1]
    return float(ordered[min(allowed, len(ordered) - 1)])


def _judge(world: AttackedEnterprise, statistic: Floats, rate: float) -> tuple[Any, ...]:
    calm = world.unattacked_rows
    blocks = world.agent * 100_000 + world.trail["time_ms"] // DAY_MS
    allowed = round(rate / 1000 * world.agent_days(calm))
    limit = threshold(statistic[calm], blocks[calm], allowed)
    delays = list(_delays(world, statistic > limit))
    seen = [delay for delay in delays if delay is not None]
    middle, upper = np.quantile(seen, [0.5, 0.75]) if seen else (np.nan, np.nan)
    false = len(np.unique(blocks[calm & (statistic > limit)]))
    return false, len(seen), len(delays), f"{middle:.0f}" if seen else "–", f"{upper:.0f}" if seen else "–"


def _delays(world: AttackedEnterprise, alarm: NDArray[np.bool_]) -> Iterator[int | None]:
    """Malicious events of each attack up to the first alarm from its first malicious event on; None for no alarm."""
    bad = world.malicious_rows
    for number in range(len(world.plans)):
        own = np.flatnonzero(world.attack == number)
        malicious = own[bad[own]]
        if len(malicious):
            hits = own[alarm[own] & (own >= malicious[0])]
            yield int((malicious <= hits[0]).sum()) if len(hits) else None
