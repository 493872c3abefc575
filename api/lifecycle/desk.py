"""The desk of models: versions, calibration, drift and budget to look at; training, promotion and roll-back to order.

What looks is blocking (an event loop calls it in a thread, as the store); what orders is asynchronous.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import msgspec

from ...ingest.errors import ModelError, TrustwatchError
from ...ingest.hashing import NameHasher
from ...models.artifact import peek
from ...models.detector import ForestDetector
from ...scoring.feedback import Feedback
from ...scoring.lifecycle.budget import LEVELS, BudgetDay, Marks, chart
from ...scoring.lifecycle.curve import GroupCurve, Observed, curves, observed
from ...scoring.lifecycle.figures import from_dict
from ...scoring.lifecycle.force import SwitchModel, switch_command
from ...scoring.lifecycle.promotion import Judgement, judge
from ...scoring.lifecycle.records import DAY_MS, Act, GroupDay, ModelEntry, ModelSwitch, ModelVersion
from ...scoring.lifecycle.shelf import Kept, ModelShelf
from ...scoring.store import MAX_PAGE, Page, Store
from ...scoring.store.base import Tenants
from ..settings import Settings
from .orders import TRAINING_WISH

MOST_DAYS = 366
ORDERS = ("promoted", "rolled_back")
MOST_MARKS = 5_000
"""Verdicts of people that one chart looks at, the newest."""
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
        challengers: agent-days in shadow of each version that may take its place.
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
        now_ms = self._now_ms()
        orders = [one.act for one in self._store.model_history(switch.version).items if one.act in ORDERS]
        back = orders[:1] == ["rolled_back"]
        others = [one for one in self._store.models("champion").items if one.version != switch.version]
        if found.status == "champion" and not others:
            return
        changed = [
            msgspec.structs.replace(one, status="rejected" if back else "retired", changed_ms=now_ms) for one in others
        ]
        new = msgspec.structs.replace(found, status="champion", promoted_ms=switch.at_ms, changed_ms=now_ms)
        detail = {"partition": switch.partition, "epoch": switch.epoch, "offset": switch.offset}
        entry = ModelEntry(
            f"switch-{switch.partition}-{switch.epoch}-{switch.offset}", now_ms, switch.version, "switched", "pipeline",
            f"in force from offset {switch.offset} of partition {switch.partition} on", detail,
        )  # fmt: skip
        self._store.change_models([*changed, new], [entry])

    def _note_installed(self) -> Kept:
        """The operator's model is a version like any other; the history says when it came."""
        kept, now_ms = self._shelf.installed(), self._now_ms()
        known = self._store.model(kept.version)
        if known is not None and known.digest == kept.digest:
            return kept
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
        return kept

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
        return [day for day in self._store.model_days(from_day, tenants, self.version) if "scores" in day.drift]

    def budget(self, days: int = 30, level: str = "medium", tenants: Tenants = None) -> list[BudgetDay]:
        """The control chart of the alert budget of *level*, by day and group. Raises Unavailable."""
        today, accepted = self._today(), self._settings.risk.alert_budget
        span = range(today - min(days, MOST_DAYS) + 1, today + 1)
        return chart(
            span, self._store.alert_counts(span.start, tenants), self._store.model_days(span.start, tenants),
            self._store.known_agents(span.start, tenants), self._marks(span, tenants),
            float(getattr(accepted, level)), level,
        )  # fmt: skip

    def _marks(self, span: range, tenants: Tenants) -> dict[tuple[int, str, str], Marks]:
        """What people said about alerts, by the day of each one's event."""
        found: dict[tuple[int, str, str], Marks] = {}
        for one in self._judged(tenants):
            decision = self._store.decision(one.decision_id, tenants)
            if decision is not None and decision.event_time_ms // DAY_MS in span:
                place = (decision.event_time_ms // DAY_MS, decision.agent.tenant, decision.agent_type)
                old, true = found.get(place, Marks()), one.verdict == "true_positive"
                found[place] = Marks(old.false_positive + (not true), old.true_positive + true)
        return found

    def _judged(self, tenants: Tenants) -> Iterator[Feedback]:
        """The newest feedback that was not revoked, a bounded number."""
        cursor: str | None = None
        for _ in range(MOST_MARKS // MAX_PAGE):
            page = self._store.list_feedback(tenants, limit=MAX_PAGE, cursor=cursor)
            yield from (one for one in page.items if one.status not in ("revoking", "revoked"))
            cursor = page.next_cursor
            if cursor is None:
                return

    def judgement(self, version: str) -> Judgement:
        """Whether a version may be promoted by its figures. Raises NoSuchModel, Unavailable."""
        found = self._known(version)
        figures = from_dict(found.figures)
        if figures is None:
            return Judgement([], ["it has not run in shadow: nothing is known of it"])
        accepted = self._settings.risk.alert_budget
        budget = {level: float(getattr(accepted, level)) for level in LEVELS}
        return judge(figures, budget, self._settings.lifecycle.min_agent_days)

    async def promote(self, version: str, by: str, why: str, *, force: bool = False) -> None:
        """Order that *version* comes into force; it does where the pipeline meets the command.

        Args:
            by: who orders it, for the history.
            why: needed with *force*, which overrules the figures.

        Raises:
            NoSuchModel: it is not known.
            NotPromoted: it can not come into force, or its figures do not allow it and nobody forces it.
            Unavailable: store or log do not answer; the order may be given again.
        """
        await asyncio.to_thread(self._adopt_from_shelf, version)
        judged = await asyncio.to_thread(self.judgement, version)
        if judged.reasons and not force:
            raise NotPromoted(judged.reasons)
        if force and not why.strip():
            raise NotPromoted(["a promotion against the figures needs a reason"])
        detail = {"forced": bool(judged.reasons), "gains": judged.gains, "against": judged.reasons}
        await self._order(version, "promoted", by, why or "; ".join(judged.gains), detail)

    async def rollback(self, by: str, why: str) -> str:
        """Order that the version that was in force before comes back; returns its name. Raises as `promote`."""
        before = await asyncio.to_thread(self._before)
        await self._order(before, "rolled_back", by, why, {"instead_of": self.version})
        return before

    def _before(self) -> str:
        switches = self._store.model_switches()
        current = switches[0].version if switches else self.version
        for one in switches:
            if one.version != current:
                return one.version
        raise NotPromoted(["no other version was in force before: there is nothing to roll back to"])

    def _adopt_from_shelf(self, version: str) -> None:
        """A version that somebody put on the shelf (trained elsewhere) becomes a challenger like any other."""
        if self._store.model(version) is not None:
            return
        for kept in self._shelf.versions():
            if kept.version == version:
                window, now_ms = kept.manifest.window, self._now_ms()
                made = ModelVersion(
                    version, "challenger", kept.digest, window.from_ms, window.to_ms, kept.manifest.created_ms, 0,
                    now_ms, trained={"source": "put on the shelf", "events": window.events, "agents": window.agents,
                             "sessions": window.sessions},
                )  # fmt: skip
                self._store.add_model(made, ModelEntry(self._new_id(), now_ms, version, "trained", "operator", "found"))
                return

    async def _order(self, version: str, act: Act, by: str, why: str, detail: dict[str, object]) -> None:
        digest = await asyncio.to_thread(self._fit, version)
        entry = ModelEntry(self._new_id(), self._now_ms(), version, act, by, why, detail)
        await asyncio.to_thread(self._store.change_models, [], [entry])
        await self._announce(switch_command(SwitchModel(version, digest, by, why)))

    def _fit(self, version: str) -> str:
        """Digest of a version that can come into force. Raises NotPromoted where it can not."""
        found = self._known(version)
        if version == self.version:
            raise NotPromoted([f"{version!r} is in force already"])
        try:
            model = self._shelf.load(version, found.digest)
        except ModelError as error:
            raise NotPromoted([str(error)]) from None
        if model.salt.hex() != self._salt():
            raise NotPromoted(
                [f"{version!r} was trained with another salt: what is known of agents could not be carried over; train "
                 "with --salt of the model in force, or put it in `model_dir` and restart, which begins anew"]
            )  # fmt: skip
        return found.digest

    def _salt(self) -> str:
        for one in (self.version, self._shelf.installed().version):
            known = self._store.model(one)
            try:
                return peek(self._shelf.find(one, None if known is None else known.digest))[0].salt_hex
            except ModelError:
                continue
        raise NotPromoted(["the model in force is not on the shelf: restore it first"])

    async def train(self, by: str, why: str) -> None:
        """Order a training from the keeper. Raises NotPromoted where none runs, Unavailable."""
        if not self._settings.lifecycle.enabled:
            raise NotPromoted(["no keeper runs here (`lifecycle.enabled` is false); use `trustwatch train`"])
        wish = msgspec.json.encode({"by": by, "why": why, "at_ms": self._now_ms()}).decode()
        await asyncio.to_thread(self._store.set_meta, TRAINING_WISH, wish)

    def _today(self) -> int:
        return self._now_ms() // DAY_MS
