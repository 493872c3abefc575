"""The scorer of calls in this process, which follows the model in force."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from trustwatch.ingest.compilation import KernelGate, KernelPart
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.events import NativeEvent
from trustwatch.models.model_registry import ModelRegistry
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.engine.settings import ChallengeBudget
from trustwatch_client.events import Agent

REFRESH_EVERY_S = 2.0

_FIRST_CALL = NativeEvent(
    time=datetime(2000, 1, 1, tzinfo=UTC), agent=Agent("-"), type="tool.call", action="-", outcome="success"
)

_log = structlog.get_logger(__name__)


class LiveCallScorer:
    """Holds the scorer of the model in force. While it can not be had, calls are judged by the level alone.

    Attributes:
        scorer: None = there is none.
        missing_because: why; "" = there is one.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        budget: ChallengeBudget,
        domains: Mapping[str, Sequence[str]] | None = None,
        *,
        compiled_elsewhere: bool = False,
    ) -> None:
        self._registry = registry
        self._budget = budget
        self._domains = domains
        self._tried = ""
        self._gate = KernelGate(KernelPart.SCORING, compiled_elsewhere=compiled_elsewhere)
        self.scorer: CallScorer | None = None
        self.missing_because = "the model is not loaded yet"

    def use_version(self, version: str) -> None:
        """Load a version, unless it is there; blocks for as long as a model takes to be read and verified."""
        if version == self._tried and self.scorer is not None:
            return
        if not self._gate.is_open():
            self.missing_because = "its kernels are being compiled"
            return
        try:
            scorer = CallScorer(self._registry.load(version), self._budget, self._domains)
            scorer.score(_FIRST_CALL)  # so that no caller waits for what is compiled on first use
        except (TrustwatchError, OSError) as error:
            self.scorer, self.missing_because = None, str(error)
            if version != self._tried:
                _log.warning("calls are judged by the level alone", model=version, why=str(error))
        else:
            self.scorer, self.missing_because = scorer, ""
            told = {"thresholds": _threshold_texts(scorer), "tenants_with_own": scorer.tenants_with_own}
            _log.info("calls are judged by a model", model=version, **told)
        self._tried = version

    async def follow(self, version: Callable[[], str], stop: asyncio.Event) -> None:
        """Use the version that *version* names, until *stop*. A model that is put back is found."""
        while not stop.is_set():
            await asyncio.to_thread(self.use_version, version())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REFRESH_EVERY_S if self.scorer else 5 * REFRESH_EVERY_S)


def _threshold_texts(scorer: CallScorer) -> dict[str, str]:
    """Thresholds by effect, for the log: of tenants that have none of their own; "none" where the history is too short
    for the budget."""
    return {
        effect: "none" if threshold is None else f"{threshold.anomaly_score:.3f} of {threshold.effect}"
        for effect, threshold in scorer.thresholds.items()
    }
