"""Checks which callers are silent, for as long as the application answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .source_silence import SilenceAlerter, SilenceDetector

SILENCE_CHECK_INTERVAL_S = 1.0


class CallerSilenceWatch:
    """Checks every second which callers are silent, and has people alerted.

    Args:
        detector: hears of everything that callers send.
        alerter: gets the reports of each check; None = silence is in logs and metrics alone.
        monotonic: seconds, as the detector's.
    """

    def __init__(
        self, detector: SilenceDetector, alerter: SilenceAlerter | None, monotonic: Callable[[], float]
    ) -> None:
        self._detector = detector
        self._alerter = alerter
        self._monotonic = monotonic
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
            self._detector.check(self._monotonic())
            if self._alerter is not None:
                await self._alerter.report_silence("caller", list(self._detector))
