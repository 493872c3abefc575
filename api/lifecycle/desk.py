"""The desk of models: versions, calibration, drift and budget to look at; training, promotion and roll-back to order.

What looks is blocking (an event loop calls it in a thread, as the store); what orders is asynchronous.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from ...ingest.errors import ModelError, TrustwatchError
from ...ingest.hashing import NameHasher
from ...models.detector import ForestDetector
from ...scoring.lifecycle.budget import BudgetDay, chart
from ...scoring.lifecycle.curve import GroupCurve, Observed, curves, observed
from ...scoring.lifecycle.records import DAY_MS, GroupDay, ModelEntry, ModelSwitch, ModelVersion
from ...scoring.lifecycle.shelf import ModelShelf
from ...scoring.store import Page, Store
from ...scoring.store.base import Tenants
from ..settings import Settings

MOST_DAYS = 366
MOST_CURVES = 16
"""Curves that are remembered: reading a model takes a tenth of a second."""


class NoSuchModel(TrustwatchError):
    """No version of that name, or it lies nowhere."""

    code = "no_such_model"


class NotPromoted(TrustwatchError):
    """A promotion or roll-back that was refused; `reasons` says why, one sentence each."""

    code = "not_promoted"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class ModelView(NamedTuple):
    """One version with everything that is known of it.

    Attributes:
        curves: score to p-value; empty where the model's directory is gone.
        observed: what share of events in shadow had p-values up to each edge; empty before that.
        history: the newest lines about it.
        switches: where it came into force.
        on_disk: whether its directory is there.
    """

    model: ModelVersion
    in_force: bool
    on_disk: bool
    curves: list[GroupCurve]
    observed: list[Observed]
    history: list[ModelEntry]
    switches: list[ModelSwitch]


class ModelDesk:
    """Everything that people ask of models and order with them.

    Args:
        settings: of the service.
        store: of versions and what was counted.
        shelf: where versions lie.
        announce: makes a command durable in every partition of the log, as `Door.control` does in one.
        now_ms: UTC milliseconds.
        new_id: text that never repeats.
        told: called when something may have to leave.

    Attributes:
        version: in force, as far as is known; of several partitions, where the newest switch was.
    """

    def __init__(
        self, settings: Settings, store: Store, shelf: ModelShelf, announce: Callable[[bytes], Awaitable[None]],
        now_ms: Callable[[], int], new_id: Callable[[], str], told: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._store = store
        self._shelf = shelf
        self._announce = announce
        self._now_ms = now_ms
        self._new_id = new_id
        self._told = told
        self._curves: dict[str, tuple[int, list[GroupCurve]]] = {}
        self.version = shelf.installed().version

    def refresh(self) -> None:
        """Learn which version is in force, and note the installed one; blocks. Raises Unavailable."""
        newest = self._store.model_switches(1)
        if newest:
            self.version = newest[0].version
        self._note_installed()

    def _note_installed(self) -> None:
        """The operator's model is a version like any other; the history says when it came."""
        kept, now_ms = self._shelf.installed(), self._now_ms()
        known = self._store.model(kept.version)
        if known is not None and known.digest == kept.digest:
            return
        window = kept.manifest.window
        made = ModelVersion(
            kept.version, "champion", kept.digest, window.from_ms, window.to_ms, kept.manifest.created_ms, now_ms,
            now_ms, trained={"source": "trustwatch train", "events": window.events, "agents": window.agents,
                             "sessions": window.sessions},
        )  # fmt: skip
        entry = ModelEntry(self._new_id(), now_ms, kept.version, "installed", "operator", "found in model_dir")
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

    def versions(self, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        """Versions, newest first. Raises BadCursor, Unavailable."""
        return self._store.models(None, limit, cursor)

    def history(self, limit: int = 50, cursor: str | None = None) -> Page[ModelEntry]:
        """What happened to versions, newest first. Raises BadCursor, Unavailable."""
        return self._store.model_history(None, limit, cursor)

    def view(self, version: str, tenants: Tenants = None) -> ModelView:
        """One version; groups of *tenants* alone. Raises NoSuchModel, Unavailable."""
        found = self._known(version)
        days = self._store.model_days(self._today() - MOST_DAYS, tenants, version)
        switches = [one for one in self._store.model_switches() if one.version == version]
        try:
            drawn, there = self._drawn(found, tenants), True
        except ModelError:
            drawn, there = [], False
        return ModelView(
            found, version == self.version, there, drawn, observed(days),
            self._store.model_history(version, 50).items, switches,
        )  # fmt: skip

    def _known(self, version: str) -> ModelVersion:
        found = self._store.model(version)
        if found is None:
            raise NoSuchModel(f"there is no version {version!r}; GET /v1/models lists them")
        return found

    def _drawn(self, found: ModelVersion, tenants: Tenants) -> list[GroupCurve]:
        """Curves of a version. Raises ModelError where it can not be read."""
        today, known = self._today(), self._curves.get(found.digest)
        if known is None or known[0] != today:  # groups may be new
            model = self._shelf.load(found.version, found.digest)
            assert isinstance(model.detector, ForestDetector)
            named = {(one.tenant, one.agent_type) for one in self._store.known_agents(0)}
            hashed = NameHasher(model.salt)
            keys = {group: hashed(f"{group[0]}\x1f{group[1]}") for group in named}
            if len(self._curves) >= MOST_CURVES:
                self._curves.clear()
            known = self._curves[found.digest] = today, curves(model.detector.calibration, keys)
        return [one for one in known[1] if tenants is None or one.tenant == "*" or one.tenant in tenants]

    def drift(self, days: int = 30, tenants: Tenants = None) -> list[GroupDay]:
        """What was measured of the version in force, by day and group. Raises Unavailable."""
        from_day = self._today() - min(days, MOST_DAYS) + 1
        return [day for day in self._store.model_days(from_day, tenants, self.version) if day.drift]

    def budget(self, days: int = 30, level: str = "medium", tenants: Tenants = None) -> list[BudgetDay]:
        """The control chart of the alert budget of *level*, by day and group. Raises Unavailable."""
        today, accepted = self._today(), self._settings.risk.alert_budget
        span = range(today - min(days, MOST_DAYS) + 1, today + 1)
        return chart(
            span, self._store.alert_counts(span.start, tenants), self._store.model_days(span.start, tenants),
            self._store.known_agents(span.start, tenants), {},
            float(getattr(accepted, level)), level,
        )  # fmt: skip

    def _today(self) -> int:
        return self._now_ms() // DAY_MS
