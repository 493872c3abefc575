"""The desk of models: versions, calibration, drift and budget to look at; training, promotion and roll-back to order.

What looks is blocking (an event loop calls it in a thread, as the store); what orders is asynchronous.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ...ingest.errors import ModelError
from ...ingest.hashing import NameHasher
from ...models.detector import ForestDetector
from ...scoring.feedback import Feedback
from ...scoring.lifecycle.budget import AlertVerdictCounts, BudgetDay, budget_chart
from ...scoring.lifecycle.curve import CalibrationCurve, ObservedShare, calibration_curves, observed_shares
from ...scoring.lifecycle.records import DAY_MS, ModelHistoryEntry, ModelSwitch, ModelVersion, PeerGroupDay
from ...scoring.lifecycle.shelf import ModelRegistry, RegisteredModel
from ...scoring.store import MAX_PAGE, Page, Store
from ...scoring.store.base import Tenants
from ..settings import Settings
from .ordering import ModelOrders

MAX_DAYS = 366
ORDER_ACTS = ("promoted", "rolled_back")
MAX_FEEDBACK_ITEMS = 5_000
"""Verdicts of people that one chart looks at, the newest."""
MAX_CACHED_CURVES = 16
"""Curves that are remembered: reading a model takes a tenth of a second."""


class ModelVersionView(NamedTuple):
    """One version with everything that is known of it.

    Attributes:
        curves: score to p-value of agents that the version does not know; empty where its directory is gone.
        observed: what share of events in shadow had p-values up to each edge; empty before that.
        history: the newest lines about it.
        switches: where it came into force.
        on_disk: whether its directory is there.
        known_agent_curves: the same curves of agents that the version knows from its history; empty where it was not
            rehearsed, and they are judged by `curves`, too.
    """

    model: ModelVersion
    in_force: bool
    on_disk: bool
    curves: list[CalibrationCurve]
    observed: list[ObservedShare]
    history: list[ModelHistoryEntry]
    switches: list[ModelSwitch]
    known_agent_curves: Sequence[CalibrationCurve] = ()


class ModelService(ModelOrders):
    """Everything that people ask of models and order with them; see `ModelOrders` for arguments.

    Attributes:
        version: in force, as far as is known; of several partitions, where the newest switch was.
        challengers: agent-days in shadow of each version that may take its place.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        shelf: ModelRegistry,
        announce: Callable[[bytes], Awaitable[None]],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(settings, store, shelf, announce, now_ms, new_id)
        self._curves: dict[str, tuple[int, tuple[list[CalibrationCurve], ...]]] = {}
        self.challengers: dict[str, int] = {}

    def refresh(self) -> None:
        """Learn which version is in force, and note the installed one; blocks. Raises Unavailable."""
        installed = self._note_installed()
        newest = self._store.model_switches(1)
        if newest and newest[0].installed == installed.digest:
            self._note_switch(newest[0])
            self.version = newest[0].version
        else:  # the pipeline takes it over with its first commit
            self.version = installed.version
        waiting = self._store.models("challenger").items
        self.challengers = {one.version: int(one.figures.get("agent_days", 0)) for one in waiting}

    def _note_switch(self, switch: ModelSwitch) -> None:
        """What is in force is the champion. Every process that looks notes it, and all write the same."""
        found = self._store.model(switch.version)
        if found is None:
            return
        others = [one for one in self._store.models("champion").items if one.version != switch.version]
        if found.status == "champion" and not others:
            return
        now_ms = self._now_ms()
        orders = [one.act for one in self._store.model_history(switch.version).items if one.act in ORDER_ACTS]
        back = orders[:1] == ["rolled_back"]
        changed = [
            msgspec.structs.replace(one, status="rejected" if back else "retired", changed_ms=now_ms) for one in others
        ]
        new = msgspec.structs.replace(found, status="champion", promoted_ms=switch.at_ms, changed_ms=now_ms)
        detail = {"partition": switch.partition, "epoch": switch.epoch, "offset": switch.offset}
        entry = ModelHistoryEntry(
            f"switch-{switch.partition}-{switch.epoch}-{switch.offset}",
            now_ms,
            switch.version,
            "switched",
            "pipeline",
            f"in force from offset {switch.offset} of partition {switch.partition} on",
            detail,
        )
        self._store.change_models([*changed, new], [entry])

    def _note_installed(self) -> RegisteredModel:
        """The operator's model is a version like any other; the history says when it came."""
        kept, now_ms = self._registry.installed_model(), self._now_ms()
        known = self._store.model(kept.version)
        if known is not None and known.digest == kept.digest:
            return kept
        window = kept.manifest.window
        made = ModelVersion(
            kept.version,
            "champion",
            kept.digest,
            window.from_ms,
            window.to_ms,
            kept.manifest.created_ms,
            now_ms,
            now_ms,
            trained={
                "source": "trustwatch train",
                "events": window.events,
                "agents": window.agents,
                "sessions": window.sessions,
            },
        )
        entry = ModelHistoryEntry(self._new_id(), now_ms, kept.version, "installed", "operator", "found in model_dir")
        retired = [
            msgspec.structs.replace(one, status="retired", changed_ms=now_ms)
            for one in self._store.models("champion").items
            if one.version != kept.version
        ]
        if known is None:
            self._store.add_model(made, entry)
            self._store.change_models(retired)
        else:
            self._store.change_models([*retired, made], [entry])
        return kept

    def versions(self, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        """Versions, newest first. Raises BadCursor, Unavailable."""
        return self._store.models(None, limit, cursor)

    def history(self, limit: int = 50, cursor: str | None = None) -> Page[ModelHistoryEntry]:
        """What happened to versions, newest first. Raises BadCursor, Unavailable."""
        return self._store.model_history(None, limit, cursor)

    def version_view(self, version: str, tenants: Tenants = None) -> ModelVersionView:
        """One version; groups of *tenants* alone. Raises UnknownModelVersion, Unavailable."""
        found = self._require_version(version)
        days = self._store.model_days(self._today() - MAX_DAYS, tenants, version)
        switches = [one for one in self._store.model_switches() if one.version == version]
        try:
            (drawn, known), there = self._calibration_curves(found, tenants), True
        except ModelError:
            drawn, known, there = [], [], False
        return ModelVersionView(
            found,
            version == self.version,
            there,
            drawn,
            observed_shares(days),
            self._store.model_history(version, 50).items,
            switches,
            known,
        )

    def _calibration_curves(self, found: ModelVersion, tenants: Tenants) -> tuple[list[CalibrationCurve], ...]:
        """Curves of a version, of newcomers and of agents that it knows. Raises ModelError where it can not be read."""
        today, known = self._today(), self._curves.get(found.digest)
        if known is None or known[0] != today:  # groups may be new
            model = self._registry.load(found.version, found.digest)
            assert isinstance(model.detector, ForestDetector)
            named = {(one.tenant, one.agent_type) for one in self._store.known_agents(0)}
            hashed = NameHasher(model.salt)
            keys = {group: hashed(f"{group[0]}\x1f{group[1]}") for group in named}
            if len(self._curves) >= MAX_CACHED_CURVES:
                self._curves.clear()
            detector = model.detector
            drawn = calibration_curves(detector.calibration, keys), calibration_curves(detector.familiar, keys)
            known = self._curves[found.digest] = today, drawn
        return tuple(
            [one for one in part if tenants is None or one.tenant == "*" or one.tenant in tenants] for part in known[1]
        )

    def drift(self, days: int = 30, tenants: Tenants = None) -> list[PeerGroupDay]:
        """What was measured of the version in force, by day and group. Raises Unavailable."""
        from_day = self._today() - min(days, MAX_DAYS) + 1
        return [day for day in self._store.model_days(from_day, tenants, self.version) if "scores" in day.drift]

    def budget(self, days: int = 30, level: str = "medium", tenants: Tenants = None) -> list[BudgetDay]:
        """The control chart of the alert budget of *level*, by day and group. Raises Unavailable."""
        today, accepted = self._today(), self._settings.risk.alert_budget
        span = range(today - min(days, MAX_DAYS) + 1, today + 1)
        return budget_chart(
            span,
            self._store.alert_counts(span.start, tenants),
            self._store.model_days(span.start, tenants),
            self._store.known_agents(span.start, tenants),
            self._feedback_counts(span, tenants),
            float(getattr(accepted, level)),
            level,
        )

    def _feedback_counts(self, span: range, tenants: Tenants) -> dict[tuple[int, str, str], AlertVerdictCounts]:
        """What people said about alerts, by the day of each one's event."""
        found: dict[tuple[int, str, str], AlertVerdictCounts] = {}
        for one in self._active_feedback(tenants):
            decision = self._store.decision(one.decision_id, tenants)
            if decision is not None and decision.event_time_ms // DAY_MS in span:
                place = (decision.event_time_ms // DAY_MS, decision.agent.tenant, decision.agent_type)
                old, true = found.get(place, AlertVerdictCounts()), one.verdict == "true_positive"
                found[place] = AlertVerdictCounts(old.false_positive + (not true), old.true_positive + true)
        return found

    def _active_feedback(self, tenants: Tenants) -> Iterator[Feedback]:
        """The newest feedback that was not revoked, a bounded number."""
        cursor: str | None = None
        for _ in range(MAX_FEEDBACK_ITEMS // MAX_PAGE):
            page = self._store.list_feedback(tenants, limit=MAX_PAGE, cursor=cursor)
            yield from (one for one in page.items if one.status not in ("revoking", "revoked"))
            cursor = page.next_cursor
            if cursor is None:
                return

    def _today(self) -> int:
        return self._now_ms() // DAY_MS
