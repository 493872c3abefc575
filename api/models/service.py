"""Keys of the store's meta table by which people and the keeper talk about training. Each has one writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ...ingest.errors import ModelError, TrustwatchError
from ...ingest.hashing import NameHasher
from ...ingest.kafka.kafka_commit_log import KafkaCommitLog
from ...ingest.log.group_commit import GroupCommit
from ...ingest.record_keys import key_for_partition
from ...ingest.source import Record, RecordKind
from ...models.detector import ForestDetector
from ...models.model_directory import read_manifest
from ...models.model_registry import ModelRegistry, RegisteredModel
from ...scoring.learning.budget_chart import AlertVerdictCounts, BudgetDay, budget_chart
from ...scoring.learning.calibration_curve import CalibrationCurve, ObservedShare, calibration_curves, observed_shares
from ...scoring.learning.promotion import PromotionAssessment, assess_promotion, comparison_from_dict
from ...scoring.records.feedback import Feedback
from ...scoring.records.models import (
    DAY_MS,
    ModelAction,
    ModelHistoryEntry,
    ModelSwitch,
    ModelVersion,
    PeerGroupDay,
    SwitchModel,
    encode_model_switch,
)
from ...scoring.store.interface import MAX_PAGE, Page, Store, Tenants
from ..settings.root import Settings

TRAINING_REQUEST_KEY = "lifecycle.train"
"""Written by who orders: the newest wish as JSON (`id`, `by`, `why`, `at_ms`)."""
LAST_TRAINING_KEY = "lifecycle.trained_ms"
"""Written by the keeper: when a training was begun last, UTC milliseconds."""
TRAINING_STATE_KEY = "lifecycle.training"
"""Written by the keeper: `TrainingState` as JSON."""


class TrainingState(msgspec.Struct, frozen=True):
    """What the keeper trains, or trained last. A keeper that finds it not ended goes on with it: the one before died.

    `wish` is the last wish that was taken on, as it was written; one that reads otherwise is a new one.
    """

    wish: str = ""
    version: str = ""
    by: str = ""
    why: str = ""
    at_ms: int = 0
    tries: int = 0  # begun so often without a word of how it ended
    ended: bool = True


def decode_training_state(stored: str | None) -> TrainingState:
    """What was stored; nothing before the first."""
    return msgspec.json.decode(stored, type=TrainingState) if stored else TrainingState()


def encode_training_state(work: TrainingState) -> str:
    """For the store."""
    return msgspec.json.encode(work).decode()


# Commands that concern everybody: made durable in every partition of the log.


class ControlRecordWriter:
    """Writes commands to the log.

    Args:
        log: embedded, with one partition, or Kafka's.
        now_ms: UTC milliseconds.
    """

    def __init__(self, log: GroupCommit, now_ms: Callable[[], int]) -> None:
        self._log = log
        self._now_ms = now_ms

    async def __call__(self, payload: bytes) -> None:
        """Make *payload* durable, once in each partition, all or none acknowledged. Raises LogFailed, Backpressure.

        Where it failed some may have it: a command that is given twice must do what it does once.
        """
        now_ms = self._now_ms()
        await self._log.commit([Record(RecordKind.CONTROL, 0, now_ms, payload, key) for key in self._partition_keys()])

    def _partition_keys(self) -> list[bytes]:
        """A key that leads to each partition."""
        log = self._log.log
        if not isinstance(log, KafkaCommitLog):
            return [b""]
        partitions = log.writer.partitions(log.topic)
        return [key_for_partition(partition, partitions) for partition in range(partitions)]


# Orders about models: promotion by figures or by force, roll-back, training. Blocking work is done in threads.


class UnknownModelVersion(TrustwatchError):
    """No version of that name, or it lies nowhere."""

    code = "no_such_model"


class PromotionRefused(TrustwatchError):
    """A promotion or roll-back that was refused; `reasons` says why, one sentence each."""

    code = "not_promoted"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class ModelOrders:
    """The part of the desk that changes something.

    Args:
        settings: of the service.
        store: of versions and what was counted.
        shelf: where versions lie.
        announce: makes a command durable in every partition of the log, as `Door.control` does in one.
        now_ms: UTC milliseconds.
        new_id: text that never repeats.
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
        self._settings = settings
        self._store = store
        self._registry = shelf
        self._write_control = announce
        self._now_ms = now_ms
        self._new_id = new_id
        self.version = shelf.installed_model().version

    def _require_version(self, version: str) -> ModelVersion:
        found = self._store.model(version)
        if found is None:
            raise UnknownModelVersion(f"there is no version {version!r}; GET /v1/models lists them")
        return found

    def judgement(self, version: str) -> PromotionAssessment:
        """Whether a version may be promoted by its figures. Raises UnknownModelVersion, Unavailable."""
        found = self._require_version(version)
        figures = comparison_from_dict(found.figures)
        if figures is None:
            return PromotionAssessment([], ["it has not run in shadow: nothing is known of it"])
        budget = self._settings.risk.alert_budget.by_level()
        return assess_promotion(figures, budget, self._settings.lifecycle.min_agent_days)

    async def promote(self, version: str, by: str, why: str, *, force: bool = False) -> None:
        """Order that *version* comes into force; it does where the pipeline meets the command.

        Args:
            by: who orders it, for the history.
            why: needed with *force*, which overrules the figures.

        Raises:
            UnknownModelVersion: it is not known.
            PromotionRefused: it can not come into force, or its figures do not allow it and nobody forces it.
            Unavailable: store or log do not answer; the order may be given again.
        """
        await asyncio.to_thread(self._adopt_from_registry, version)
        judged = await asyncio.to_thread(self.judgement, version)
        if judged.reasons and not force:
            raise PromotionRefused(judged.reasons)
        if force and not why.strip():
            raise PromotionRefused(["a promotion against the figures needs a reason"])
        detail = {"forced": bool(judged.reasons), "gains": judged.gains, "against": judged.reasons}
        await self._write_order(version, "promoted", by, why or "; ".join(judged.gains), detail)

    async def rollback(self, by: str, why: str) -> str:
        """Order that the version that was in force before comes back; returns its name. Raises as `promote`."""
        before = await asyncio.to_thread(self._previous_version)
        await self._write_order(before, "rolled_back", by, why, {"instead_of": self.version})
        return before

    def _previous_version(self) -> str:
        switches = self._store.model_switches()
        current = switches[0].version if switches else self.version
        for one in switches:
            if one.version != current:
                return one.version
        raise PromotionRefused(["no other version was in force before: there is nothing to roll back to"])

    def _adopt_from_registry(self, version: str) -> None:
        """A version that somebody put on the shelf (trained elsewhere) becomes a challenger like any other."""
        if self._store.model(version) is not None:
            return
        for kept in self._registry.versions():
            if kept.version == version:
                window, now_ms = kept.manifest.window, self._now_ms()
                made = ModelVersion(
                    version,
                    "challenger",
                    kept.digest,
                    window.from_ms,
                    window.to_ms,
                    kept.manifest.created_ms,
                    0,
                    now_ms,
                    trained={
                        "source": "put on the shelf",
                        "events": window.events,
                        "agents": window.agents,
                        "sessions": window.sessions,
                    },
                )
                self._store.add_model(
                    made, ModelHistoryEntry(self._new_id(), now_ms, version, "trained", "operator", "found")
                )
                return

    async def _write_order(self, version: str, act: ModelAction, by: str, why: str, detail: dict[str, object]) -> None:
        digest = await asyncio.to_thread(self._check_usable, version)
        entry = ModelHistoryEntry(self._new_id(), self._now_ms(), version, act, by, why, detail)
        await asyncio.to_thread(self._store.change_models, [], [entry])
        await self._write_control(encode_model_switch(SwitchModel(version, digest, by, why)))

    def _check_usable(self, version: str) -> str:
        """Digest of a version that can come into force. Raises PromotionRefused where it can not."""
        found = self._require_version(version)
        if version == self.version:
            raise PromotionRefused([f"{version!r} is in force already"])
        try:
            model = self._registry.load(version, found.digest)
        except ModelError as error:
            raise PromotionRefused([str(error)]) from None
        if model.salt.hex() != self._active_salt():
            raise PromotionRefused(
                [
                    f"{version!r} was trained with another salt: what is known of agents could not be carried over; "
                    "train with --salt of the model in force, or put it in `model_dir` and restart, which begins anew"
                ]
            )
        return found.digest

    def _active_salt(self) -> str:
        for one in (self.version, self._registry.installed_model().version):
            known = self._store.model(one)
            try:
                return read_manifest(self._registry.find_directory(one, None if known is None else known.digest))[
                    0
                ].salt_hex
            except ModelError:
                continue
        raise PromotionRefused(["the model in force is not on the shelf: restore it first"])

    async def request_training(self, by: str, why: str) -> None:
        """Order a training; the next keeper does it if this one dies.

        Raises PromotionRefused (none runs), Unavailable.
        """
        if not self._settings.lifecycle.enabled:
            raise PromotionRefused(["no keeper runs here (`lifecycle.enabled` is false); use `trustwatch train`"])
        wish = msgspec.json.encode({"id": self._new_id(), "by": by, "why": why, "at_ms": self._now_ms()}).decode()
        await asyncio.to_thread(self._store.set_meta, TRAINING_REQUEST_KEY, wish)


# The desk of models: versions, calibration, drift and budget to look at; training, promotion and roll-back to order.
#
# What looks is blocking (an event loop calls it in a thread, as the store); what orders is asynchronous.


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
        today = self._today()
        span = range(today - min(days, MAX_DAYS) + 1, today + 1)
        return budget_chart(
            span,
            self._store.alert_counts(span.start, tenants),
            self._store.model_days(span.start, tenants),
            self._store.known_agents(span.start, tenants),
            self._feedback_counts(span, tenants),
            self._settings.risk.alert_budget.by_level()[level],
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
