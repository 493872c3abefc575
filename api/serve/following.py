"""What the keeper does with each record: champion and challenger in shadow, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ...ingest.source import RecordBatch
from ...models.bundle import TrainedModel
from ...scoring.feedback import Feedback
from ...scoring.lifecycle.alerting import drift_row, since_of
from ...scoring.lifecycle.budget import LEVELS
from ...scoring.lifecycle.figures import Figures, as_dict
from ...scoring.lifecycle.force import Chosen, ModelsInForce
from ...scoring.lifecycle.promotion import judge
from ...scoring.lifecycle.records import DAY_MS, GroupDay, ModelSwitch, ModelVersion
from ...scoring.lifecycle.shadow import Duel, ShadowRun
from ...scoring.lifecycle.watch import GroupWatch, Thresholds
from ...scoring.pipeline import PARTITION
from ...scoring.records import OutboxRow
from ...scoring.store import MAX_PAGE, SqlStore
from .. import clock
from ..settings import Settings
from .courses import Course
from .origins import ends_of
from .wiring import engine_settings, service_url

RESIDENT = 20_000
"""Agents in memory per model; the others are kept as bytes."""
FEWEST_RESIDENTS = 1_000
"""Of one partition."""
ASK_AGAIN_S = 60.0

_log = structlog.get_logger(__name__)
_Place = tuple[int, str, str]


class ShadowRuns:
    """One model over all partitions: each has a run of its own, as it has a processor of its own live.

    Args:
        make: a run that has seen nothing.
    """

    def __init__(self, make: Callable[[], ShadowRun]) -> None:
        self._make = make
        self._runs: dict[int, ShadowRun] = {}

    def of(self, partition: int) -> ShadowRun:
        """The run of a partition."""
        if partition not in self._runs:
            self._runs[partition] = self._make()
        return self._runs[partition]


class Follower:
    """Runs models in shadow.

    Args:
        settings: of the service.
        store: where figures go.
        models: chooses and loads.
        course: what is followed; moved here.
        ask: asks for the promotion of a version.
    """

    def __init__(
        self, settings: Settings, store: SqlStore, models: ModelsInForce, course: Course, ask: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._store = store
        self._models = models
        self._course = course
        self._ask = ask
        self._followed: tuple[str, str] | None = None
        self._champion: ShadowRuns | None = None
        self._challenger: tuple[ModelVersion, ShadowRuns] | None = None
        self._duel: Duel | None = None
        self._watch: GroupWatch | None = None
        self._since_ms = self._mark_ms = 0
        self._stored: dict[_Place, int] = {}
        self._judged: dict[tuple[str, str], GroupDay] = {}
        self._asked = float("-inf")

    def look(self) -> Chosen:
        """Begin anew where another champion or challenger is to be followed; returns what is in force."""
        chosen = self._models.choose(self._newest_switch())
        challenger = self._newest_challenger(chosen)
        wanted = (chosen.digest, "" if challenger is None else challenger.digest)
        if wanted != self._followed:
            self.write()
            self._begin(chosen, challenger)
            self._followed = wanted
        return chosen

    def _newest_switch(self) -> ModelSwitch | None:
        """Of several partitions, where the newest one was: all meet the same commands in the same order."""
        if self._course.several:
            return next(iter(self._store.model_switches(1)), None)
        return self._store.model_switch(PARTITION)

    def _newest_challenger(self, chosen: Chosen) -> ModelVersion | None:
        for one in self._store.models("challenger").items:
            if one.version != chosen.version and one.counted_from:
                return one
        return None

    def _begin(self, chosen: Chosen, challenger: ModelVersion | None) -> None:
        self._since_ms = clock.now_ms() - int(self._settings.lifecycle.follow_days * DAY_MS)
        if challenger is not None:
            self._since_ms = min(self._since_ms, challenger.created_ms - DAY_MS)
        firsts = self._course.begin(self._since_ms)
        champion = self._models.load(chosen.version, chosen.digest)
        self._champion = self._runs(champion, len(firsts))
        bounds = self._settings.lifecycle.drift
        self._watch = GroupWatch(
            champion,
            Thresholds(bounds.features, bounds.scores, bounds.min_events, bounds.reference_days),
            self._remember(chosen.version),
        )
        self._watch.settled_ms = 0 if self._course.several else None
        self._mark_ms = 0
        self._challenger = self._duel = None
        if challenger is not None:
            model = self._models.load(challenger.version, challenger.digest)
            self._challenger = challenger, self._runs(model, len(firsts))
            ends = ends_of(challenger)
            counted = {partition: max(ends.get(partition, 0), first) for partition, first in firsts.items()}
            self._duel = Duel(counted, (chosen.version, challenger.version))
        _log.info(
            "following",
            champion=chosen.version,
            challenger=None if challenger is None else challenger.version,
            from_offsets=dict(firsts),
        )

    def _runs(self, model: TrainedModel, partitions: int) -> ShadowRuns:
        residents = min(RESIDENT, self._settings.pipeline.resident_agents)
        if self._course.several:
            residents = max(FEWEST_RESIDENTS, residents // max(partitions, 1))
        engine, domains = engine_settings(self._settings, capacity=residents), self._settings.domains()
        return ShadowRuns(lambda: ShadowRun(model, engine, domains, self._course.window()))

    def _remember(self, version: str) -> list[GroupDay]:
        """What is stored of days: one that is counted again from a shorter log must not be overwritten by less."""
        self._stored, self._judged = {}, {}
        known = self._store.model_days(0, version=version)
        for day in known:
            self._stored[day.day, day.tenant, day.agent_type] = day.events
            if day.drift.get("judged"):
                self._judged[day.tenant, day.agent_type] = day
        return known

    def see(self, batch: RecordBatch) -> None:
        """Records of the log, in order."""
        if self._champion is None or batch.records[-1].received_ms < self._since_ms:
            return
        assert self._watch is not None
        run = self._champion.of(batch.partition)
        champion = list(run.apply(batch))
        for scored, _ in champion:
            self._watch.see(scored, run.processor.engine.agents)
        if self._duel is not None and self._challenger is not None:
            challenger = self._challenger[1].of(batch.partition).apply(batch)
            self._duel.see(champion, challenger, batch.partition)

    def _settle(self) -> None:
        """Partitions that are read at different speeds: what was new when all ends were looked up last is settled once
        all of them are reached, for then nothing is missing that arrived before it."""
        if self._watch is not None and self._course.several and self._course.reached():
            self._watch.settled_ms, self._mark_ms = self._mark_ms, self._watch.newest_ms

    def write(self) -> None:
        """Write what was counted since the last time."""
        self._settle()
        self._write_days()
        if self._duel is None or self._challenger is None:
            return
        version = self._challenger[0].version
        figures = self._duel.figures(self._feedback())
        self._store.note_figures(version, as_dict(figures), clock.now_ms())
        self._maybe_ask(version, figures)

    def _feedback(self) -> list[Feedback]:
        page = self._store.list_feedback(verdict="true_positive", limit=MAX_PAGE)
        return [one for one in page.items if one.status not in ("revoking", "revoked")]

    def _maybe_ask(self, version: str, figures: Figures) -> None:
        if self._settings.lifecycle.promote != "automatic" or clock.monotonic() - self._asked < ASK_AGAIN_S:
            return
        accepted = self._settings.risk.alert_budget
        budget = {level: float(getattr(accepted, level)) for level in LEVELS}
        if not judge(figures, budget, self._settings.lifecycle.min_agent_days).reasons:
            self._asked = clock.monotonic()
            self._ask(version)

    def _write_days(self) -> None:
        if self._watch is None:
            return
        days: list[GroupDay] = []
        told: list[OutboxRow] = []
        for found in self._watch.changed():
            place = (found.day, found.tenant, found.agent_type)
            if found.events < self._stored.get(place, 0):
                continue
            day = since_of(found, self._judged.get(place[1:]))
            self._stored[place] = day.events
            days.append(day)
            if day.drift.get("judged"):
                self._judged[place[1:]] = day
                if day.drift["drifted"]:
                    again = self._settings.lifecycle.drift.again_days
                    told.append(drift_row(day, again, clock.now_ms(), service_url(self._settings)))
        if days:
            self._store.note_days(days, told)
