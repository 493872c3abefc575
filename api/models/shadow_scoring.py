"""Shadow scoring: champion and challenger on each record, and the figures that are stored of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec
import structlog

from trustwatch.ingest.source import RecordBatch
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.learning.drift import PeerGroupMonitor, drift_alert_row, with_drift_start
from trustwatch.scoring.learning.promotion import ShadowComparison, assess_promotion
from trustwatch.scoring.learning.shadow import ChampionChallengerRun, ShadowRun
from trustwatch.scoring.pipeline.model_switch import ActiveModels, ModelChoice
from trustwatch.scoring.records.commits import ONLY_PARTITION, OutboxRow
from trustwatch.scoring.records.feedback import Feedback
from trustwatch.scoring.records.models import ModelSwitch, ModelVersion, PeerGroupDay
from trustwatch.scoring.store.database import MAX_PAGE
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..composition import engine_settings, service_url
from ..settings.root import Settings
from .record_streams import RecordStream
from .training_data import trained_end_offsets

MAX_RESIDENT_AGENTS = 20_000
"""Agents in memory per model; the others are kept as bytes."""
MIN_RESIDENT_AGENTS = 1_000
"""Least number of agents in memory for one partition."""
FOLLOW_DAYS = 2
"""What arrived so long before a start is read again to bring models in shadow up to date."""

PROMOTION_RETRY_S = 60.0

_log = structlog.get_logger(__name__)
_GroupDayKey = tuple[int, str, str]
ShadowRuns = defaultdict[int, ShadowRun]
"""One model over all partitions: each has a separate run, as it has a separate processor live."""


class ShadowScorer:
    """Runs models in shadow."""

    def __init__(
        self,
        settings: Settings,
        store: SqlStore,
        models: ActiveModels,
        record_stream: RecordStream,
        request_promotion: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._models = models
        self._record_stream = record_stream
        self._request_promotion = request_promotion
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
        """The version that is in force."""
        return self._models.choose(self._newest_switch())

    def refresh_versions(self) -> None:
        """Begin anew where another champion or challenger is to be followed."""
        chosen = self.champion_version()
        challenger = self._newest_challenger(chosen)
        digests = (chosen.digest, "" if challenger is None else challenger.digest)
        if digests != self._followed_digests:
            self.write_figures()
            self._restart(chosen, challenger)
            self._followed_digests = digests

    def _newest_switch(self) -> ModelSwitch | None:
        """Newest switch of any partition: all meet the same commands in the same order."""
        if self._record_stream.multi_partition:
            return next(iter(self._store.models.list_switches(1)), None)
        return self._store.models.current_switch(ONLY_PARTITION)

    def _newest_challenger(self, chosen: ModelChoice) -> ModelVersion | None:
        for challenger in self._store.models.page("challenger").items:
            if challenger.version != chosen.version and challenger.counted_from:
                return challenger
        return None

    def _restart(self, chosen: ModelChoice, challenger: ModelVersion | None) -> None:
        self._since_ms = clock.now_ms() - int(FOLLOW_DAYS * DAY_MS)
        if challenger is not None:
            self._since_ms = min(self._since_ms, challenger.created_ms - DAY_MS)
        firsts = self._record_stream.rewind(self._since_ms)
        champion = self._models.load(chosen.version, chosen.digest)
        self._champion = self._make_runs(champion, len(firsts))
        self._watch = PeerGroupMonitor(
            champion,
            self._settings.lifecycle.drift,
            self._load_stored_days(chosen.version),
        )
        self._watch.complete_ms = 0 if self._record_stream.multi_partition else None
        self._newest_at_targets_ms = 0
        self._challenger = self._duel = None
        if challenger is not None:
            model = self._models.load(challenger.version, challenger.digest)
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
        residents = min(MAX_RESIDENT_AGENTS, self._settings.pipeline.resident_agents)
        if self._record_stream.multi_partition:
            residents = max(MIN_RESIDENT_AGENTS, residents // max(partitions, 1))
        engine, domains = engine_settings(self._settings, capacity=residents), self._settings.domains()
        identities = self._store.identities
        return defaultdict(
            lambda: ShadowRun(model, engine, domains, self._record_stream.make_duplicate_window(), identities)
        )

    def _load_stored_days(self, version: str) -> list[PeerGroupDay]:
        """Load the stored days: one that is counted again from a shorter log must not be overwritten by less."""
        self._stored_events, self._judged_days = {}, {}
        stored_days = self._store.models.list_days(0, version=version)
        for day in stored_days:
            self._stored_events[day.day, day.tenant, day.agent_type] = day.events
            if day.drift.get("judged"):
                self._judged_days[day.tenant, day.agent_type] = day
        return stored_days

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

    def _settle_days(self) -> None:
        """Partitions that are read at different speeds: what was new when all ends were looked up last is settled once
        all of them are reached, for then nothing is missing that arrived before it."""
        if self._watch is not None and self._record_stream.multi_partition and self._record_stream.is_caught_up():
            self._watch.complete_ms, self._newest_at_targets_ms = self._newest_at_targets_ms, self._watch.newest_ms

    def write_figures(self) -> None:
        """Store the figures counted since the last call."""
        self._settle_days()
        self._write_days()
        if self._duel is None or self._challenger is None:
            return
        version = self._challenger[0].version
        figures = self._duel.comparison(self._confirmed_attacks())
        self._store.models.save_shadow_metrics(version, msgspec.to_builtins(figures), clock.now_ms())
        self._maybe_request_promotion(version, figures)

    def _confirmed_attacks(self) -> list[Feedback]:
        page = self._store.feedback.page(verdict="true_positive", limit=MAX_PAGE)
        return [feedback for feedback in page.items if feedback.status not in ("revoking", "revoked")]

    def _maybe_request_promotion(self, version: str, figures: ShadowComparison) -> None:
        if (
            self._settings.lifecycle.promote != "automatic"
            or clock.monotonic() - self._requested_at < PROMOTION_RETRY_S
        ):
            return
        budget = self._settings.risk.alert_budget.by_level()
        if not assess_promotion(figures, budget, self._settings.lifecycle.min_agent_days).reasons:
            self._requested_at = clock.monotonic()
            self._request_promotion(version)

    def _write_days(self) -> None:
        if self._watch is None:
            return
        days: list[PeerGroupDay] = []
        alerts: list[OutboxRow] = []
        for counted in self._watch.drain_changed_days():
            key = (counted.day, counted.tenant, counted.agent_type)
            if counted.events < self._stored_events.get(key, 0):
                continue
            day = with_drift_start(counted, self._judged_days.get(key[1:]))
            self._stored_events[key] = day.events
            days.append(day)
            if day.drift.get("judged"):
                self._judged_days[key[1:]] = day
                if day.drift["drifted"]:
                    alerts.append(drift_alert_row(day, clock.now_ms(), service_url(self._settings)))
        if days:
            self._store.models.save_days(days, alerts)
