"""The model worker: `python -m trustwatch.api.models.worker`, which the service starts if `lifecycle.enabled`, and
while it learns.

It follows the event log with a separate reader, or the events topic as a separate consumer group, at the lowest
priority, trains new versions, runs champion and challenger in shadow, measures drift, and writes its figures to the
store. It changes nothing that events are judged by: the service promotes a challenger, at this process's request. One
process of a deployment is active; the others wait until the database gives them the leader's lock.
"""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.source import RecordBatch
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.learning.drift import PeerGroupMonitor, drift_alert_row, with_drift_start
from trustwatch.scoring.learning.promotion import assess_promotion
from trustwatch.scoring.learning.shadow import ChampionChallengerRun, ShadowRun
from trustwatch.scoring.pipeline.model_switch import ActiveModels, ModelChoice
from trustwatch.scoring.records.commits import ONLY_PARTITION, OutboxRow
from trustwatch.scoring.records.models import ModelVersion, PeerGroupDay
from trustwatch.scoring.store.database import MAX_PAGE, LeaderLock
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..child_process import LOWEST_PRIORITY, ChildRuntime, run_child
from ..composition import (
    engine_settings,
    load_erased_from_log,
    make_duplicate_window,
    open_event_source,
    open_model_registry,
    open_service_store,
)
from ..settings.root import Settings
from .training_scheduler import TrainingScheduler, read_training_data, trained_end_offsets

POLL_RECORDS, POLL_S = 1_000, 0.5
REPORT_EVERY_S = 5.0
END_OFFSETS_EVERY_S = 5.0
"""Shortest time between two look-ups of the ends of partitions."""
GROUP_SUFFIX, GROUP_MEMBER = "-keeper", "keeper"


class RecordStream:
    """Reads the records of all partitions of the configured log in order, as often as needed.

    Raises ConfigError, Unavailable.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = open_event_source(settings, suffix=GROUP_SUFFIX, member=GROUP_MEMBER)
        self.multi_partition = settings.distributed
        self._erased_filter = ErasedFilter()
        self._next_offsets: dict[int, int] = {}
        self._target_offsets: dict[int, int] = {}
        self._joined = self._idle = False
        self._reported_at = self._targets_set_at = float("-inf")

    def rewind(self, since_ms: int) -> dict[int, int]:
        """Go back to what arrived at *since_ms*, or a little before it; return the first offset of each partition.

        Raises CorruptLog, Unavailable.
        """
        offsets = self._source.offsets(since_ms)
        self._next_offsets = {partition: at.since for partition, at in offsets.items()}
        self._target_offsets = {partition: at.end for partition, at in offsets.items()}
        self._idle, self._erased_filter = False, load_erased_from_log(self._settings)
        for partition in self._source.owned():
            self._source.seek(partition, self._next_offsets[partition])
        if not self._joined:
            self._source.join(self)
            self._joined = True
        return dict(self._next_offsets)

    def assigned(self, partitions: Collection[int]) -> dict[int, int]:
        """See `PartitionOwner`: continue at the last position."""
        return {partition: self._next_offsets.setdefault(partition, 0) for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: no other process needs state from here."""

    def lost(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: records that were read still count, since no other process counts them."""

    def poll(self) -> RecordBatch | None:
        """Return the next records; None if there are none at the moment. Raises CorruptLog, Fenced."""
        failed = self._source.failed_polls
        batch = self._source.poll(POLL_RECORDS, POLL_S)
        if batch is not None:
            self._next_offsets[batch.partition] = batch.next_offset
            batch = self._erased_filter.filter_batch(batch)
        elif self._source.failed_polls == failed and len(self._source.owned()) >= len(self._target_offsets):
            self._idle = True  # no record is left: the last offsets may be markers that no poll returns
        if clock.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = clock.monotonic()
            self._source.note_position({at: self._next_offsets[at] for at in self._source.owned()})
        return batch

    def is_caught_up(self) -> bool:
        """True if all records that existed when this was last true (or at `rewind`) were returned.

        False if the log does not answer.
        """
        behind = any(self._next_offsets.get(partition, 0) < goal for partition, goal in self._target_offsets.items())
        if (behind and not self._idle) or clock.monotonic() - self._targets_set_at < END_OFFSETS_EVERY_S:
            return False
        try:
            self._target_offsets = {partition: self._source.end_offset(partition) for partition in self._target_offsets}
        except Unavailable:
            return False
        self._targets_set_at, self._idle = clock.monotonic(), False
        return True

    def close(self) -> None:
        self._source.close()


MAX_RESIDENT_AGENTS = 20_000
"""Agents in memory per model; the others are kept as bytes."""
MIN_RESIDENT_AGENTS = 1_000
"""Minimum number of agents in memory for one partition."""
FOLLOW_DAYS = 2
"""Days before a start whose records are read again to bring models in shadow up to date."""

PROMOTION_RETRY_S = 60.0

_log = structlog.get_logger(__name__)
_GroupDayKey = tuple[int, str, str]
ShadowRuns = defaultdict[int, ShadowRun]
"""One model by partition: each has a separate run, as it has a separate processor in the pipeline."""


@dataclass(eq=False, repr=False)
class ShadowScorer:
    """Runs models in shadow."""

    settings: Settings
    store: SqlStore
    models: ActiveModels
    record_stream: RecordStream
    request_promotion: Callable[[str], None]

    def __post_init__(self) -> None:
        self._followed_digests: tuple[str, str] | None = None
        self._champion: ShadowRuns | None = None
        self._challenger: tuple[ModelVersion, ShadowRuns] | None = None
        self._duel: ChampionChallengerRun | None = None
        self._watch: PeerGroupMonitor | None = None
        self._since_ms = self._newest_at_targets_ms = 0
        self._stored_events: dict[_GroupDayKey, int] = {}
        self._judged_days: dict[tuple[str, str], PeerGroupDay] = {}
        self._requested_at = float("-inf")

    def champion_version(self) -> ModelChoice:
        """Return the active version: all partitions get the same commands in the same order."""
        if self.record_stream.multi_partition:
            return self.models.choose(next(iter(self.store.models.list_switches(1)), None))
        return self.models.choose(self.store.models.current_switch(ONLY_PARTITION))

    def refresh_versions(self) -> None:
        """Start again if the champion or challenger to follow has changed."""
        chosen = self.champion_version()
        challengers = self.store.models.page("challenger").items
        challenger = next((one for one in challengers if one.version != chosen.version and one.counted_from), None)
        digests = (chosen.digest, "" if challenger is None else challenger.digest)
        if digests != self._followed_digests:
            self.write_figures()
            self._restart(chosen, challenger)
            self._followed_digests = digests

    def _restart(self, chosen: ModelChoice, challenger: ModelVersion | None) -> None:
        self._since_ms = clock.now_ms() - int(FOLLOW_DAYS * DAY_MS)
        if challenger is not None:
            self._since_ms = min(self._since_ms, challenger.created_ms - DAY_MS)
        firsts = self.record_stream.rewind(self._since_ms)
        champion = self.models.load(chosen.version, chosen.digest)
        self._champion = self._make_runs(champion, len(firsts))
        # One that is counted again from a shorter log must not be overwritten by less.
        stored_days = self.store.models.list_days(0, version=chosen.version)
        self._stored_events = {(day.day, day.tenant, day.agent_type): day.events for day in stored_days}
        self._judged_days = {(day.tenant, day.agent_type): day for day in stored_days if day.drift.get("judged")}
        self._watch = PeerGroupMonitor(champion, self.settings.lifecycle.drift, stored_days)
        self._watch.complete_ms = 0 if self.record_stream.multi_partition else None
        self._newest_at_targets_ms = 0
        self._challenger = self._duel = None
        if challenger is not None:
            model = self.models.load(challenger.version, challenger.digest)
            self._challenger = challenger, self._make_runs(model, len(firsts))
            ends = trained_end_offsets(challenger)
            counted = {partition: max(ends.get(partition, 0), first) for partition, first in firsts.items()}
            self._duel = ChampionChallengerRun(counted, (chosen.version, challenger.version))
        _log.info(
            "following",
            champion=chosen.version,
            challenger=None if challenger is None else challenger.version,
            from_offsets=dict(firsts),
        )

    def _make_runs(self, model: TrainedModel, partitions: int) -> ShadowRuns:
        residents = min(MAX_RESIDENT_AGENTS, self.settings.pipeline.resident_agents)
        if self.record_stream.multi_partition:
            residents = max(MIN_RESIDENT_AGENTS, residents // max(partitions, 1))
        engine, domains = engine_settings(self.settings, capacity=residents), self.settings.domains()
        return defaultdict(
            lambda: ShadowRun(model, engine, domains, make_duplicate_window(self.settings), self.store.identities)
        )

    def process(self, batch: RecordBatch) -> None:
        """Score records of the log, in order."""
        if self._champion is None or batch.records[-1].received_ms < self._since_ms:
            return
        assert self._watch is not None
        run = self._champion[batch.partition]
        champion = list(run.apply(batch))
        for scored, _ in champion:
            self._watch.observe(scored, run.processor.engine.agents)
        if self._duel is not None and self._challenger is not None:
            challenger = self._challenger[1][batch.partition].apply(batch)
            self._duel.compare_batch(champion, challenger, batch.partition)

    def write_figures(self) -> None:
        """Store the figures counted since the last call, and request the promotion of a challenger that is better."""
        if self._watch is not None:
            if self.record_stream.multi_partition and self.record_stream.is_caught_up():
                # Partitions are read at different speeds: once all ends of the last look-up are reached, nothing is
                # missing that arrived before it.
                self._watch.complete_ms, self._newest_at_targets_ms = self._newest_at_targets_ms, self._watch.newest_ms
            self._write_days(self._watch)
        if self._duel is None or self._challenger is None:
            return
        version, lifecycle = self._challenger[0].version, self.settings.lifecycle
        attacks = self.store.feedback.page(verdict="true_positive", limit=MAX_PAGE).items
        figures = self._duel.comparison([one for one in attacks if one.status not in ("revoking", "revoked")])
        self.store.models.save_shadow_metrics(version, msgspec.to_builtins(figures), clock.now_ms())
        if lifecycle.promote == "automatic" and clock.monotonic() - self._requested_at >= PROMOTION_RETRY_S:
            budget = self.settings.risk.budget.by_level()
            if not assess_promotion(figures, budget, lifecycle.min_agent_days).reasons:
                self._requested_at = clock.monotonic()
                self.request_promotion(version)

    def _write_days(self, watch: PeerGroupMonitor) -> None:
        days: list[PeerGroupDay] = []
        alerts: list[OutboxRow] = []
        for counted in watch.drain_changed_days():
            key = (counted.day, counted.tenant, counted.agent_type)
            if counted.events < self._stored_events.get(key, 0):
                continue
            day = with_drift_start(counted, self._judged_days.get(key[1:]))
            self._stored_events[key] = day.events
            days.append(day)
            if day.drift.get("judged"):
                self._judged_days[key[1:]] = day
                if day.drift["drifted"]:
                    alerts.append(drift_alert_row(day, clock.now_ms(), self.settings.listen.url()))
        if days:
            self.store.models.save_days(days, alerts)


LEADER_LOCK_NAME, ACQUIRE_EVERY_S = "keeper", 2.0
CHECK_VERSIONS_EVERY_S = 1.0
WRITE_FIGURES_EVERY_S = 5.0
PURGE_EVERY_S = 3_600.0
REQUEST_AGAIN_S = 60.0
IDLE_S = 0.2


@dataclass(eq=False, repr=False)
class ModelWorker:
    """Training and shadow scoring in one process, as the leader among model workers."""

    child: ChildRuntime
    store: SqlStore
    leader_lock: LeaderLock

    def __post_init__(self) -> None:
        settings = self.child.settings
        self._settings = settings
        self._registry = open_model_registry(settings)
        self._models = ActiveModels(self._registry, clock.now_ms)
        self._record_stream = RecordStream(settings)
        self._training = TrainingScheduler(
            settings, self.store, self._registry, partial(read_training_data, settings), self._raise_if_stopping
        )
        self._shadow_scorer = ShadowScorer(
            settings, self.store, self._models, self._record_stream, self._request_promotion
        )
        self._versions_checked_at = self._figures_written_at = self._purged_at = self._lock_checked_at = float("-inf")
        self._first_requested_at = float("-inf")
        self._follows = settings.lifecycle.enabled

    def step(self) -> None:
        """Do what is due, or process one batch of records."""
        now = clock.monotonic()
        if now - self._versions_checked_at >= CHECK_VERSIONS_EVERY_S:
            self._versions_checked_at = now
            self._check_versions()
        if self._follows and now - self._figures_written_at >= WRITE_FIGURES_EVERY_S:
            self._figures_written_at = now
            self._shadow_scorer.write_figures()
        if now - self._purged_at >= PURGE_EVERY_S:
            self._purged_at = now
            self.store.retention.purge_model_days((clock.now_ms() - self._settings.retention_days * DAY_MS) // DAY_MS)
        if not self._follows:
            self.child.sleep(IDLE_S)
            return
        batch = self._record_stream.poll()
        if batch is not None:
            self._shadow_scorer.process(batch)

    def _check_versions(self) -> None:
        self.leader_lock.ensure_held()
        champion = self._shadow_scorer.champion_version()
        learns = self._registry.learns(champion.version, champion.digest)
        # Nothing is compared with an untrained model; with the keeper disabled, it runs only for the first model. A
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
        ready = self._training.first_training.ready_version() if learns and work is None else None
        if ready is not None and clock.monotonic() - self._first_requested_at >= REQUEST_AGAIN_S:
            self._first_requested_at = clock.monotonic()
            self._training.first_training.requests[ready] += 1
            self._request_promotion(ready)

    def _refresh_shadow(self) -> None:
        if self._follows:
            self._shadow_scorer.refresh_versions()

    def _raise_if_stopping(self) -> None:
        """Raise during a training if the process should stop or, checked periodically, is not the leader any more."""
        self.child.raise_if_stopping()
        if clock.monotonic() - self._lock_checked_at >= CHECK_VERSIONS_EVERY_S:
            self._lock_checked_at = clock.monotonic()
            self.leader_lock.ensure_held()

    def _request_promotion(self, version: str) -> None:
        """Ask the service to promote a version that has proved better."""
        self.child.send(version.encode())

    def run(self) -> None:
        """Work until the process is stopped; then store the figures counted so far."""
        try:
            gc.freeze()
            while not self.child.should_stop:
                self.step()
            if self._follows:
                self._shadow_scorer.write_figures()
        finally:
            self._record_stream.close()


def run_model_worker(child: ChildRuntime) -> None:
    """Wait to become the leader, and run the model worker until it is stopped. Raises StopRequested, Unavailable."""
    os.nice(LOWEST_PRIORITY)
    with closing(open_service_store(child.settings)) as store:
        logged = False
        while (leader_lock := store.database.acquire_leader_lock(LEADER_LOCK_NAME)) is None:
            if not logged:
                _log.info("another process keeps models; this one takes over when it ends")
            logged = True
            child.sleep(ACQUIRE_EVERY_S)
        _log.info("keeping models")
        try:
            ModelWorker(child, store, leader_lock).run()
        finally:
            leader_lock.release()


if __name__ == "__main__":
    raise SystemExit(run_child(run_model_worker))
