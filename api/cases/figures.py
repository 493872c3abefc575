"""Figures of cases for operators: how many wait, how old they are, how soon people act."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import Case, WaitingCases

from ..http.prometheus_metrics import MetricValues, ServiceMetrics, age_s
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor

LOOK_EVERY_S: Final = 15.0
RESPONSE_METRIC: Final = "trustwatch_case_response_seconds"

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseFigures:
    """Cases that are not closed, as the store had them last, and times of acts of this process. For one event loop."""

    runtime: Runtime
    executor: StoreExecutor
    metrics: ServiceMetrics

    def __post_init__(self) -> None:
        self._times = {act: self.metrics.histogram(RESPONSE_METRIC, act) for act in ("acknowledge", "contain")}
        self._waiting: Sequence[WaitingCases] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_always())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def look(self) -> None:
        """Read the cases that wait. Raises Unavailable."""
        self._waiting = await self.executor(self.runtime.store.cases.waiting)

    def note_act(self, before: Case, after: Case) -> None:
        """Note how soon a case was acknowledged, or contained, for the first time."""
        for act, was, now in (
            ("acknowledge", before.acknowledged_ms, after.acknowledged_ms),
            ("contain", before.contained_ms, after.contained_ms),
        ):
            if now and not was:
                self._times[act].observe(max(0.0, (now - after.opened_ms) / 1000))

    def values(self) -> MetricValues:
        """Values of the observed metrics; none before the first look."""
        if self._waiting is None:
            return {}
        now_ms, oldest = self.runtime.now_ms(), dict[str, int]()
        for one in self._waiting:
            oldest[one.status] = min(one.oldest_ms, oldest.get(one.status, one.oldest_ms))
        return {
            "trustwatch_cases": {(one.status, RiskLevel(one.level).label): one.count for one in self._waiting},
            "trustwatch_case_oldest_seconds": {
                (status,): max(0.0, age_s(opened_ms, now_ms)) for status, opened_ms in oldest.items()
            },
        }

    async def _look_always(self) -> None:
        while True:
            try:
                await self.look()
            except TrustwatchError as error:
                _log.warning("case_figures_wait", error=str(error))
            except Exception as error:  # our own fault must not end the checks
                _log.error("case_figures_failed", error=repr(error)[:200])
            await asyncio.sleep(LOOK_EVERY_S)
