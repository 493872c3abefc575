"""Learning mode: a service without a model knows nobody, and trains its first model once it has enough history."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import structlog

from ...ingest.errors import ModelError
from ...ingest.timestamps import HOUR_MS
from ...models.learning_model import save_learning_model
from ...models.model_directory import is_model
from ...models.model_registry import RegisteredModel
from ...scoring.learning.learning_progress import LearningProgress, learning_progress
from ...scoring.store.sql_store import SqlStore
from .. import clock
from ..composition import open_service_store
from ..settings.learning_settings import LifecycleSettings
from ..settings.root import Settings
from .training_state import LAST_TRAINING_KEY

LOOK_EVERY_S = 10.0
"""Between two looks at how much history there is. Meanwhile it must not have grown, unless it is of the last hour."""

LOG_EVERY_S = 600.0
TRY_AGAIN_GROWTH = 1.25
"""After a first training that brought no model into force, another one wants so many times the events."""
TRY_AGAIN_MS = HOUR_MS
"""And so much time after it."""

_log = structlog.get_logger(__name__)


def begin_learning(settings: Settings) -> None:
    """Put the model that knows nothing into `model_dir` where there is none, and nothing was judged by another yet.

    Raises ModelError where a model was there before: agents' states could not be read by a new one.
    """
    folder = settings.model_dir
    if settings.distributed or is_model(folder) or (folder.exists() and any(folder.iterdir())):
        return  # loading it says what is wrong
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with closing(open_service_store(settings)) as store:
        before = store.models.list_switches(1)
    if before:
        raise ModelError(
            f"{folder} holds no model, but agents were judged by {before[0].version!r} before: put it back "
            f"(it may be below {settings.data_dir / 'models'}), or restore a back-up"
        )
    save_learning_model(folder, clock.now_ms())
    _log.warning("no model in model_dir: the service learns, and knows no agent until then", model_dir=str(folder))


def is_learning(installed: RegisteredModel, store: SqlStore) -> bool:
    """Tell whether the model that knows nothing is in force. Raises Unavailable."""
    newest = next(iter(store.models.list_switches(1)), None)
    return installed.manifest.learns and (newest is None or newest.version == installed.version)


def measure_progress(store: SqlStore, lifecycle: LifecycleSettings) -> LearningProgress:
    """How much history there is, from what the store knows of agents. Raises Unavailable."""
    waiting = [one.version for one in store.models.page("challenger").items if one.trained.get("over_budget")]
    over_budget = waiting[0] if waiting else ""
    return learning_progress(store.agents.history_extent(), lifecycle.learn_events, lifecycle.learn_days, over_budget)


class FirstTraining:
    """When to train the first model, and which one to bring into force.

    Args:
        settings: of retraining.
        store: of agents and versions.
        now_ms: UTC milliseconds.
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        settings: LifecycleSettings,
        store: SqlStore,
        now_ms: Callable[[], int] = clock.now_ms,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._looked_at = self._logged_at = float("-inf")
        self._events_before = self._tried_events = 0

    def is_due(self) -> bool:
        """Look now and then whether there is enough history that does not grow by old events any more.

        Old ones come when somebody sends a history: it is learned as a whole. Never after a model was in force: who
        went back to learning has a reason, and orders the next training.
        """
        if self._monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = self._monotonic()
        extent, now_ms = self._store.agents.history_extent(), self._now_ms()
        progress = learning_progress(extent, self._settings.learn_events, self._settings.learn_days)
        self._log_progress(progress)
        settled = extent.last_ms >= now_ms - HOUR_MS or extent.events == self._events_before
        self._events_before = extent.events
        if not (progress.is_enough and settled and self._may_try(extent.events, now_ms)):
            return False
        if self.ready_version() is not None or self._had_a_model():
            return False
        self._tried_events = extent.events
        return True

    def _may_try(self, events: int, now_ms: int) -> bool:
        last_ms = int(self._store.metadata.get(LAST_TRAINING_KEY) or 0)
        return not last_ms or (events >= TRY_AGAIN_GROWTH * self._tried_events and now_ms >= last_ms + TRY_AGAIN_MS)

    def _had_a_model(self) -> bool:
        return len({switch.version for switch in self._store.models.list_switches()}) > 1

    def _log_progress(self, progress: LearningProgress) -> None:
        if self._monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = self._monotonic()
            _log.info("learning", **progress._asdict(), enough=progress.is_enough)

    def ready_version(self) -> str | None:
        """The first trained version, if it keeps the alert budget on its own history; else people decide."""
        if self._had_a_model():
            return None
        for version in self._store.models.page("challenger").items:
            if not version.trained.get("over_budget"):
                return version.version
        return None
