"""Checks which callers are silent, for as long as the application answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from .source_silence import SilenceAlerter, SilenceDetector

SILENCE_CHECK_INTERVAL_S = 1.0


@dataclass(eq=False, repr=False)
class CallerSilenceWatch:
    """Checks every second which callers are silent, and has people alerted."""

    detector: SilenceDetector
    alerter: SilenceAlerter | None  # gets the reports of each check; None = silence is in logs and metrics alone
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start watching."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End the watch."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_CHECK_INTERVAL_S)
            self.detector.check(self.monotonic())
            if self.alerter is not None:
                await self.alerter.report_silence("caller", list(self.detector))
