"""Figures of versions that are worth a chart: curves of calibration, and alerts against their budget by day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.detector import ForestDetector
from trustwatch.models.model_registry import ModelRegistry
from trustwatch.scoring.learning.budget_chart import AlertVerdictCounts, BudgetDay, budget_chart
from trustwatch.scoring.learning.calibration_curve import CalibrationCurve, calibration_curves
from trustwatch.scoring.records.feedback import Feedback
from trustwatch.scoring.records.models import ModelVersion
from trustwatch.scoring.store.database import MAX_PAGE, Tenants, iterate_pages
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of
from trustwatch.scoring.store.sql_store import SqlStore

MAX_DAYS = 366
MAX_FEEDBACK_ITEMS = 5_000
"""Verdicts of people that one chart looks at, the newest."""
MAX_CACHED_CURVES = 16
"""Curves that are remembered: reading a model takes a tenth of a second."""


class VersionFigures:
    """Reads what charts are made of. Every call blocks, and raises Unavailable.

    Args:
        store: has what was counted.
        registry: where versions lie.
        now_ms: UTC milliseconds.
    """

    def __init__(self, store: SqlStore, registry: ModelRegistry, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._registry = registry
        self._now_ms = now_ms
        self._curves: dict[str, tuple[int, tuple[list[CalibrationCurve], ...]]] = {}

    def calibration_curves(self, model: ModelVersion, tenants: Tenants) -> tuple[list[CalibrationCurve], ...]:
        """Curves of a version, of newcomers and of agents that it knows. Raises ModelError where it can not be read."""
        today, cached = self._today(), self._curves.get(model.digest)
        if cached is None or cached[0] != today:  # groups may be new
            trained = self._registry.load(model.version, model.digest)
            assert isinstance(trained.detector, ForestDetector)
            with reads_of(WHOLE_DEPLOYMENT):  # kept for every caller; what this one sees of it is chosen below
                counted = self._store.agents.count_by_group(0)
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
            self._store.decisions.count_alerts(span.start, tenants),
            self._store.models.list_days(span.start, tenants),
            self._store.agents.count_by_group(span.start, tenants),
            self._feedback_counts(span, tenants),
            accepted,
            level,
        )

    def _feedback_counts(self, span: range, tenants: Tenants) -> dict[tuple[int, str, str], AlertVerdictCounts]:
        """Counts of feedback on alerts, by the day of each one's event."""
        counts: dict[tuple[int, str, str], AlertVerdictCounts] = {}
        for feedback in self._active_feedback(tenants):
            decision = self._store.decisions.get(feedback.decision_id, tenants)
            if decision is not None and decision.event_time_ms // DAY_MS in span:
                key = (decision.event_time_ms // DAY_MS, decision.agent.tenant, decision.agent_type)
                before, true = counts.get(key, AlertVerdictCounts()), feedback.verdict == "true_positive"
                counts[key] = AlertVerdictCounts(before.false_positive + (not true), before.true_positive + true)
        return counts

    def _active_feedback(self, tenants: Tenants) -> Iterator[Feedback]:
        """The newest feedback that was not revoked, a bounded number."""
        newest = iterate_pages(lambda cursor: self._store.feedback.page(tenants, limit=MAX_PAGE, cursor=cursor))
        for feedback in islice(newest, MAX_FEEDBACK_ITEMS):
            if feedback.status not in ("revoking", "revoked"):
                yield feedback

    def _today(self) -> int:
        return self._now_ms() // DAY_MS
