"""Versions in the store, in step with the registry and with what the pipeline switched to; and their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.model_persistence import ModelRegistry, RegisteredModel
from trustwatch.scoring.learning.budget_chart import (
    AlertVerdictCounts,
    BudgetDay,
    CalibrationCurve,
    budget_chart,
    calibration_curves,
)
from trustwatch.scoring.learning.feedback_preview import feedback_labels
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelStatus, ModelSwitch, ModelVersion
from trustwatch.scoring.store.database import Tenants
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of
from trustwatch.scoring.store.sql_store import SqlStore

MAX_DAYS = 366
MAX_FEEDBACK_ITEMS = 5_000
"""Verdicts of people that one chart looks at, the newest."""
MAX_CACHED_CURVES = 16
"""Curves that are remembered: reading a model takes a tenth of a second."""


ORDER_ACTS = ("promoted", "rolled_back")


@dataclass(eq=False, repr=False)
class VersionRecords:
    """Rows of versions, their history, and what charts are made of. Every call blocks, and raises Unavailable."""

    store: SqlStore
    registry: ModelRegistry
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    def __post_init__(self) -> None:
        self._curves: dict[str, tuple[int, tuple[list[CalibrationCurve], ...]]] = {}

    def adopt_from_registry(self, version: str) -> None:
        """Make a version that was trained elsewhere and put into the registry a challenger like any other."""
        if self.store.models.get(version) is not None:
            return
        registered = next((candidate for candidate in self.registry.versions() if candidate.version == version), None)
        if registered is None:
            return
        now_ms = self.now_ms()
        model = _version_of(registered, "challenger", "put into the registry", now_ms=now_ms)
        entry = ModelHistoryEntry(self.new_id(), now_ms, version, "trained", "operator", "found")
        self.store.models.add(model, entry)

    def note_switch(self, switch: ModelSwitch) -> None:
        """Mark the active version as champion. Every process that sees the switch does, and all write the same."""
        model = self.store.models.get(switch.version)
        if model is None:
            return
        earlier_champions = [
            other for other in self.store.models.page("champion").items if other.version != switch.version
        ]
        if model.status == "champion" and not earlier_champions:
            return
        now_ms = self.now_ms()
        orders = [entry.act for entry in self.store.models.history(switch.version).items if entry.act in ORDER_ACTS]
        status: ModelStatus = "rejected" if orders[:1] == ["rolled_back"] else "retired"
        replaced = [msgspec.structs.replace(other, status=status, changed_ms=now_ms) for other in earlier_champions]
        champion = msgspec.structs.replace(model, status="champion", promoted_ms=switch.at_ms, changed_ms=now_ms)
        self.store.models.update([*replaced, champion], [_switch_entry(switch, now_ms)])

    def note_installed(self) -> RegisteredModel:
        """Record the operator's model as a version like any other, with the time of its installation."""
        installed, now_ms = self.registry.installed_model(), self.now_ms()
        stored = self.store.models.get(installed.version)
        if stored is not None and stored.digest == installed.digest:
            return installed
        learns = installed.manifest.learns
        source, why = ("nothing", "no model was in model_dir") if learns else ("trustwatch train", "found in model_dir")
        model = _version_of(installed, "champion", source, promoted_ms=now_ms, now_ms=now_ms)
        entry = ModelHistoryEntry(
            self.new_id(), now_ms, installed.version, "installed", "service" if learns else "operator", why
        )
        retired = [
            msgspec.structs.replace(other, status="retired", changed_ms=now_ms)
            for other in self.store.models.page("champion").items
            if other.version != installed.version
        ]
        if stored is None:
            self.store.models.add(model, entry)
            self.store.models.update(retired)
        else:
            self.store.models.update([*retired, model], [entry])
        return installed

    def calibration_curves(self, model: ModelVersion, tenants: Tenants) -> tuple[list[CalibrationCurve], ...]:
        """Curves of a version, of newcomers and of agents that it knows. Raises ModelError if it cannot be read."""
        today, cached = self._today(), self._curves.get(model.digest)
        if cached is None or cached[0] != today:  # groups may be new
            trained = self.registry.load(model.version, model.digest)
            with reads_of(WHOLE_DEPLOYMENT):  # kept for every caller; what this one sees of it is chosen below
                counted = self.store.agents.count_by_group(0)
            groups = {(lifespans.tenant, lifespans.agent_type) for lifespans in counted}
            hasher = NameHasher(trained.salt)
            keys = {group: hasher(f"{group[0]}\x1f{group[1]}") for group in groups}
            if len(self._curves) >= MAX_CACHED_CURVES:
                self._curves.clear()
            detector = trained.detector
            curves = calibration_curves(detector.calibration, keys), calibration_curves(detector.familiar, keys)
            cached = self._curves[model.digest] = today, curves
        return tuple(
            [curve for curve in part if tenants is None or curve.tenant == "*" or curve.tenant in tenants]
            for part in cached[1]
        )

    def budget_days(self, days: int, level: str, accepted: float, tenants: Tenants) -> list[BudgetDay]:
        today = self._today()
        span = range(today - min(days, MAX_DAYS) + 1, today + 1)
        return budget_chart(
            span,
            self.store.decisions.count_alerts(span.start, tenants),
            self.store.models.list_days(span.start, tenants),
            self.store.agents.count_by_group(span.start, tenants),
            self._feedback_counts(span, tenants),
            accepted,
            level,
        )

    def _feedback_counts(self, span: range, tenants: Tenants) -> dict[tuple[int, str, str], AlertVerdictCounts]:
        """Counts of feedback on alerts, by the day of each one's event."""
        counts: dict[tuple[int, str, str], AlertVerdictCounts] = {}
        for feedback in islice(feedback_labels(self.store.feedback, tenants), MAX_FEEDBACK_ITEMS):
            decision = self.store.decisions.get(feedback.decision_id, tenants)
            if decision is not None and decision.event_time_ms // DAY_MS in span:
                key = (decision.event_time_ms // DAY_MS, decision.agent.tenant, decision.agent_type)
                before, true = counts.get(key, AlertVerdictCounts()), feedback.verdict == "true_positive"
                counts[key] = AlertVerdictCounts(before.false_positive + (not true), before.true_positive + true)
        return counts

    def _today(self) -> int:
        return self.now_ms() // DAY_MS


def _version_of(
    registered: RegisteredModel, status: ModelStatus, source: str, *, now_ms: int, promoted_ms: int = 0
) -> ModelVersion:
    """A version that the registry has and the store has not."""
    window = registered.manifest.window
    return ModelVersion(
        registered.version,
        status,
        registered.digest,
        window.from_ms,
        window.to_ms,
        registered.manifest.created_ms,
        promoted_ms,
        now_ms,
        trained={"source": source, "events": window.events, "agents": window.agents, "sessions": window.sessions},
    )


def _switch_entry(switch: ModelSwitch, now_ms: int) -> ModelHistoryEntry:
    return ModelHistoryEntry(
        f"switch-{switch.partition}-{switch.epoch}-{switch.offset}",
        now_ms,
        switch.version,
        "switched",
        "pipeline",
        f"in force from offset {switch.offset} of partition {switch.partition} on",
        {"partition": switch.partition, "epoch": switch.epoch, "offset": switch.offset},
    )
