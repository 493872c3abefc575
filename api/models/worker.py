"""The model worker: `python -m trustwatch.api.models.worker`, started by the service where `lifecycle.enabled`, and
while it learns.

It follows the event log with a reader of its own, or the events topic as a consumer group of its own, at the lowest
priority, trains new versions, runs champion and challenger in shadow, measures drift, and writes what it finds to the
store. It changes nothing that events are judged by: a challenger is promoted by the service, which this process may
ask. Of a deployment one keeps models; the others wait until the database gives them the seat.
"""

from __future__ import annotations

import gc
import os
from functools import partial

import structlog

from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.store.database import LeaderLock
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..child_process import LOWEST_PRIORITY, ChildRuntime, run_child
from ..composition import open_model_registry, open_service_store
from .record_streams import open_record_stream
from .shadow_scoring import ShadowScorer
from .training_data import read_training_data
from .training_scheduler import TrainingScheduler

LEADER_LOCK_NAME, ACQUIRE_EVERY_S = "keeper", 2.0
CHECK_VERSIONS_EVERY_S = 1.0
WRITE_FIGURES_EVERY_S = 5.0
PURGE_EVERY_S = 3_600.0
ASK_AGAIN_S = 60.0
IDLE_S = 0.2

_log = structlog.get_logger(__name__)


class ModelWorker:
    """Training and shadow scoring in one process, as the leader among model workers."""

    def __init__(self, child: ChildRuntime, store: SqlStore, leader_lock: LeaderLock) -> None:
        settings = child.settings
        self._child = child
        self._settings = settings
        self._store = store
        self._leader_lock = leader_lock
        self._registry = open_model_registry(settings)
        self._models = ActiveModels(self._registry, clock.now_ms)
        self._record_stream = open_record_stream(settings)
        self._training = TrainingScheduler(
            settings, store, self._registry, partial(read_training_data, settings), self._raise_if_stopping
        )
        self._shadow_scorer = ShadowScorer(settings, store, self._models, self._record_stream, self._request_promotion)
        self._versions_checked_at = self._figures_written_at = self._purged_at = self._lock_checked_at = float("-inf")
        self._first_asked_at = float("-inf")
        self._follows = settings.lifecycle.enabled

    def step(self) -> None:
        """Look for what is to be done, or follow the records a little."""
        now = clock.monotonic()
        if now - self._versions_checked_at >= CHECK_VERSIONS_EVERY_S:
            self._versions_checked_at = now
            self._check_versions()
        if self._follows and now - self._figures_written_at >= WRITE_FIGURES_EVERY_S:
            self._figures_written_at = now
            self._shadow_scorer.write_figures()
        if now - self._purged_at >= PURGE_EVERY_S:
            self._purged_at = now
            self._store.retention.purge_model_days((clock.now_ms() - self._settings.retention_days * DAY_MS) // DAY_MS)
        if not self._follows:
            self._child.sleep(IDLE_S)
            return
        batch = self._record_stream.poll()
        if batch is not None:
            self._shadow_scorer.process(batch)

    def _check_versions(self) -> None:
        self._leader_lock.ensure_held()
        champion = self._shadow_scorer.champion_version()
        learns = self._registry.learns(champion.version, champion.digest)
        # Nothing is compared with a model that knows nothing; who wanted no keeper has one for the first model alone. A
        # member of a group that never polls would wait for brokers, so it does not join either.
        self._follows = self._settings.lifecycle.enabled and not learns
        self._refresh_shadow()
        work = self._training.next_training(champion)
        if work is not None:
            if self._follows:
                self._shadow_scorer.write_figures()
            self._training.run_training(work, self._models.load(champion.version, champion.digest))
            self._refresh_shadow()
            self._versions_checked_at = clock.monotonic()
        if learns and work is None:
            self._ask_for_first_model()

    def _refresh_shadow(self) -> None:
        if self._follows:
            self._shadow_scorer.refresh_versions()

    def _ask_for_first_model(self) -> None:
        """Ask for the first trained model until it is in force: nothing can be lost by it."""
        ready = self._training.first_training.ready_version()
        if ready is not None and clock.monotonic() - self._first_asked_at >= ASK_AGAIN_S:
            self._first_asked_at = clock.monotonic()
            self._training.first_training.note_asked(ready)
            self._request_promotion(ready)

    def _raise_if_stopping(self) -> None:
        """Raise, while it trains, if it is to end or, looked up now and then, is the leader no longer."""
        self._child.raise_if_stopping()
        if clock.monotonic() - self._lock_checked_at >= CHECK_VERSIONS_EVERY_S:
            self._lock_checked_at = clock.monotonic()
            self._leader_lock.ensure_held()

    def _request_promotion(self, version: str) -> None:
        """Ask the service to promote a version that has proved better."""
        self._child.send(version.encode())

    def finish(self) -> None:
        """Store the figures counted so far."""
        if self._follows:
            self._shadow_scorer.write_figures()

    def close(self) -> None:
        """Release the log or the topic."""
        self._record_stream.close()


def run_model_worker(child: ChildRuntime) -> None:
    """Run the model worker until told to end, once it is the leader."""
    os.nice(LOWEST_PRIORITY)
    store = open_service_store(child.settings)
    try:
        leader_lock = _acquire_leadership(child, store)
        _log.info("keeping models")
        try:
            _run_as_leader(child, store, leader_lock)
        finally:
            leader_lock.release()
    finally:
        store.close()


def _acquire_leadership(child: ChildRuntime, store: SqlStore) -> LeaderLock:
    """Wait to become the leader among the model workers. Raises StopRequested, Unavailable."""
    logged = False
    while (leader_lock := store.database.acquire_leader_lock(LEADER_LOCK_NAME)) is None:
        if not logged:
            _log.info("another process keeps models; this one takes over when it ends")
        logged = True
        child.sleep(ACQUIRE_EVERY_S)
    return leader_lock


def _run_as_leader(child: ChildRuntime, store: SqlStore, leader_lock: LeaderLock) -> None:
    worker = ModelWorker(child, store, leader_lock)
    try:
        gc.freeze()
        while not child.should_stop:
            worker.step()
        worker.finish()
    finally:
        worker.close()


if __name__ == "__main__":
    raise SystemExit(run_child(run_model_worker))
