"""Models: versions, calibration, drift and alert budget; orders to train, promote and roll back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, NamedTuple

import msgspec

from trustwatch.ingest.described import FLAT, member
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_keys import key_for_partition
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import ModelRegistry, RegisteredModel
from trustwatch.scoring.learning.budget_chart import (
    AlertVerdictCounts,
    BudgetDay,
    CalibrationCurve,
    ObservedShare,
    budget_chart,
    calibration_curves,
    observed_shares,
)
from trustwatch.scoring.learning.feedback_preview import feedback_labels
from trustwatch.scoring.learning.promotion import PromotionAssessment, assess_promotion, comparison_from_dict
from trustwatch.scoring.records.models import (
    ModelAction,
    ModelHistoryEntry,
    ModelStatus,
    ModelSwitch,
    ModelVersion,
    PeerGroupDay,
    SwitchModel,
    encode_model_switch,
)
from trustwatch.scoring.store.database import Page, Tenants
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of
from trustwatch.scoring.store.sql_store import SqlStore

from ..http.agent_lookup import require_all_tenants, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError, invalid_value_error
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import ANY_NAME
from ..settings.root import Settings
from .first_training import TRAINING_REQUEST_KEY, LearningProgress, is_judged_by, measure_progress

MAX_REASON_LENGTH = 2_000
MAX_DAYS = 366
MAX_FEEDBACK_ITEMS = 5_000
"""Newest verdicts of people that one chart reads."""
MAX_CACHED_CURVES = 16
"""Versions whose curves are cached: reading a model takes a tenth of a second."""
MODEL_WORKER_NAME = "keeper"
"""Name in the history for promotions by figures alone."""
ORDER_UNDER_WAY_MS = 600_000
"""An order is carried out within this time, or it was lost on its way to the log."""
MEASURE_EVERY_MS, MEASURE_PAUSE_SHARE, MAX_MEASURE_PAUSE_MS = 10_000, 20, 60_000
"""Pause between two measurements of the history: at least the first, and so many times as long as the last one took,
up to the third, since each process reads all agents for it."""
_ORDER_ACTS = ("promoted", "rolled_back")


class UnknownModelVersion(ProblemError):
    """There is no version of that name: answered with 404."""

    def __init__(self, version: str) -> None:
        detail = f"there is no version {version!r}; GET /v1/models lists them"
        super().__init__(ProblemDetails(404, "no_such_model", "No such model", detail))


class PromotionRefused(ProblemError):
    """An order that was refused, answered with 409; `reasons` has one sentence for each reason."""

    def __init__(self, reasons: list[str]) -> None:
        members = {"reasons": reasons}
        super().__init__(ProblemDetails(409, "not_promoted", "Not promoted", "; ".join(reasons), members=members))
        self.reasons = reasons


class ModelVersionView(NamedTuple):
    """One version with everything that a caller may see of it."""

    model: Annotated[ModelVersion, FLAT]
    in_force: Annotated[bool, member("whether events are judged by it now")]
    on_disk: Annotated[bool, member("whether its directory exists")]
    curves: Annotated[list[CalibrationCurve], member("calibration for agents that are not in its history")]
    observed: Annotated[list[ObservedShare], member("share of events in shadow by p-value; empty before that")]
    history: Annotated[list[ModelHistoryEntry], member("newest entries; empty for callers not of all tenants")]
    switches: Annotated[list[ModelSwitch], member("when it became active, by partition")]
    known_agent_curves: Annotated[
        Sequence[CalibrationCurve],
        member(
            "calibration for those that it knows; empty if it was not validated, and `calibration` judges them, too"
        ),
    ] = ()
    judgement: Annotated[PromotionAssessment | None, member("for a challenger: whether it may be promoted")] = None


class AlertBudgetChart(NamedTuple):
    """The control chart of one level, oldest day first; `accepted` alerts per 1,000 agent-days are its budget."""

    accepted: float
    days: list[BudgetDay]


def sees_all_tenants(caller: AuthenticatedCaller) -> bool:
    """Return whether a caller may see figures of all tenants together, and the names of those who ordered."""
    return ANY_NAME in caller.tenants


@dataclass(eq=False, repr=False)
class ModelService:
    """Versions and figures of models, and orders about them.

    Attributes:
        version: the active one, as far as is known; with several partitions, that of the newest switch.
        learning: how much history exists while no trained model is active; None = one is.
    """

    MISSING_DETAIL: ClassVar = "this service keeps no models"

    settings: Settings
    store: SqlStore
    registry: ModelRegistry
    write_control: Callable[[bytes], Awaitable[None]]
    executor: StoreExecutor
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    def __post_init__(self) -> None:
        self.version = self.registry.installed_model().version
        self.learning: LearningProgress | None = None
        self._measure_at_ms = 0
        self._curves: dict[str, tuple[int, tuple[list[CalibrationCurve], ...]]] = {}

    @property
    def trains_models(self) -> bool:
        """Whether a process trains versions and runs them in shadow here."""
        return self.settings.lifecycle.enabled or (self.learning is not None and not self.learning.held)

    # Reads.

    def learning_for(self, caller: AuthenticatedCaller) -> str | None:
        """Describe the history while no trained model is active; figures only for callers of all tenants."""
        if self.learning is None:
            return None
        return self.learning.describe() if sees_all_tenants(caller) else "Every agent is unknown until one was trained."

    async def versions(
        self, caller: AuthenticatedCaller, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelVersion]:
        """List versions, newest first; training data and figures are only for callers of all tenants.

        Raises:
            TenantNotAllowed: the caller is authorized for no tenant.
            ProblemError: 400, the cursor is invalid.
            Unavailable: the store does not answer.
        """
        visible_tenants(caller, None)
        page = await self.executor(self.store.models.page, None, limit, cursor)
        return Page([_as_visible_to(caller, model) for model in page.items], page.next_cursor)

    async def history(
        self, caller: AuthenticatedCaller, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelHistoryEntry]:
        """List the history, newest first, for callers of all tenants: it has the names of those who ordered."""
        require_all_tenants(caller)
        return await self.executor(self.store.models.history, None, limit, cursor)

    async def version_detail(
        self, caller: AuthenticatedCaller, version: str, tenant: str | None = None
    ) -> ModelVersionView:
        """Return one version with the caller's groups. Raises UnknownModelVersion, Unavailable."""
        view = await self.executor(self._version_view, version, visible_tenants(caller, tenant))
        if sees_all_tenants(caller):
            return view._replace(judgement=self._assess(view.model))
        return view._replace(model=_as_visible_to(caller, view.model), history=[])

    async def drift(self, caller: AuthenticatedCaller, days: int = 30, tenant: str | None = None) -> list[PeerGroupDay]:
        """List the daily drift of the active version by group, oldest first. Raises Unavailable."""
        from_day = self.now_ms() // DAY_MS - min(days, MAX_DAYS) + 1
        tenants = visible_tenants(caller, tenant)
        measured = await self.executor(self.store.models.list_days, from_day, tenants, self.version)
        return [day for day in measured if "scores" in day.drift]

    async def budget(
        self, caller: AuthenticatedCaller, days: int = 30, level: str = "medium", tenant: str | None = None
    ) -> AlertBudgetChart:
        """Return the daily control chart of the alert budget of *level* by group. Raises Unavailable."""
        accepted = self.settings.risk.budget.by_level()[level]
        tenants = visible_tenants(caller, tenant)
        return AlertBudgetChart(accepted, await self.executor(self._budget_days, days, level, accepted, tenants))

    # Orders.

    async def train(self, caller: AuthenticatedCaller, why: str) -> None:
        """Order a training; another model worker does it if this one dies. Raises PromotionRefused, Unavailable."""
        by = _check_order(caller, why)
        if not self.trains_models:
            raise PromotionRefused(["no keeper runs here (`lifecycle.enabled` is false); use `trustwatch train`"])
        request = {"id": self.new_id(), "by": by, "why": why, "at_ms": self.now_ms()}
        await self.executor.write(self.store.metadata.put, TRAINING_REQUEST_KEY, msgspec.json.encode(request).decode())

    async def promote(self, caller: AuthenticatedCaller, version: str, why: str, *, force: bool = False) -> None:
        """Order the promotion of *version*, which becomes active when the pipeline reaches the command.

        Raises:
            ProblemError: 403 or 422, the caller may not order this, or gives too long a reason.
            UnknownModelVersion: it does not exist.
            PromotionRefused: it cannot become active, or its figures do not allow it and *force* is false.
            Unavailable: store or log do not answer; the order may be given again.
        """
        await self._order_promotion(version, _check_order(caller, why), why, force=force)

    async def promote_proved(self, version: str) -> bool:
        """Promote a challenger that the model worker found better, after another check of its stored figures.

        Returns False if another order has not reached any pipeline yet, this one or a person's: nothing is ordered.
        Raises as `promote`.
        """
        if await self.executor(self._is_order_under_way):
            return False
        await self._order_promotion(version, MODEL_WORKER_NAME, "", force=False)
        return True

    async def rollback(self, caller: AuthenticatedCaller, why: str) -> str:
        """Order that the previously active version becomes active again; return its name. Raises as `promote`."""
        by = _check_order(caller, why)
        switches = await self.executor(self.store.models.list_switches)
        current = switches[0].version if switches else self.version
        before = next((switch.version for switch in switches if switch.version != current), None)
        if before is None:
            raise PromotionRefused(["no other version was active before: there is nothing to roll back to"])
        await self._write_order(before, "rolled_back", by, why, {"instead_of": self.version})
        return before

    async def _order_promotion(self, version: str, by: str, why: str, *, force: bool) -> None:
        await self.executor.write(self._adopt_from_registry, version)
        assessment = self._assess(await self.executor(self._require_version, version))
        if assessment.reasons and not force:
            raise PromotionRefused(assessment.reasons)
        if force and not why.strip():
            raise PromotionRefused(["a promotion against the figures needs a reason"])
        detail = {"forced": bool(assessment.reasons), "gains": assessment.gains, "against": assessment.reasons}
        await self._write_order(version, "promoted", by, why or "; ".join(assessment.gains), detail)

    async def _write_order(self, version: str, act: ModelAction, by: str, why: str, detail: dict[str, object]) -> None:
        digest = await self.executor.write(self._check_usable, version)
        entry = ModelHistoryEntry(self.new_id(), self.now_ms(), version, act, by, why, detail)
        await self.executor.write(self.store.models.update, [], [entry])
        await self.write_control(encode_model_switch(SwitchModel(version, digest, by, why)))

    # Below here everything blocks, and raises Unavailable.

    def _is_order_under_way(self) -> bool:
        newest = next((entry for entry in self.store.models.history(limit=10).items if entry.act in _ORDER_ACTS), None)
        switched = next(iter(self.store.models.list_switches(1)), None)
        if newest is None or self.now_ms() - newest.at_ms > ORDER_UNDER_WAY_MS:
            return False
        return switched is None or switched.at_ms < newest.at_ms

    def _require_version(self, version: str) -> ModelVersion:
        model = self.store.models.get(version)
        if model is None:
            raise UnknownModelVersion(version)
        return model

    def _assess(self, model: ModelVersion) -> PromotionAssessment:
        """Judge by its figures whether a version may be promoted."""
        if self.learning is not None and not self.learning.held:
            against = []
            if not is_judged_by(model.trained, self.settings.risk.budget):
                against = ["`risk.alert_budget` was changed since it was judged by it: wait for the next training"]
            elif over := ", ".join(model.trained.get("over_budget", ())):
                against = [f"on its own history it alerts more often than `risk.alert_budget` allows: {over}"]
            return PromotionAssessment(["there is no trained model yet"], against)
        figures = comparison_from_dict(model.figures)
        if figures is None:
            return PromotionAssessment([], ["it has not run in shadow: nothing is known of it"])
        budget = self.settings.risk.budget.by_level()
        return assess_promotion(figures, budget, self.settings.lifecycle.min_agent_days)

    def _check_usable(self, version: str) -> str:
        """Return the digest of a version that can become active. Raises PromotionRefused if it cannot."""
        digest = self._require_version(version).digest
        if version == self.version:
            raise PromotionRefused([f"{version!r} is already active"])
        try:
            trained = self.registry.load(version, digest)
        except ModelError as error:
            raise PromotionRefused([str(error)]) from None
        for active in (self.version, self.registry.installed_model().version):
            stored = self.store.models.get(active)
            try:
                directory = self.registry.find_directory(active, None if stored is None else stored.digest)
                salt = read_manifest(directory)[0].salt_hex
                break
            except ModelError:
                continue
        else:
            raise PromotionRefused(["the active model is not in the directory of versions: restore it first"])
        if trained.salt.hex() != salt:
            raise PromotionRefused(
                [
                    f"{version!r} was trained with another salt: what is known of agents could not be carried over; "
                    "train with --salt of the active model, or put it in `model_dir` and restart, which forgets agents"
                ]
            )
        return digest

    def refresh(self) -> None:
        """Look up the active version, and record the installed one; blocks. Raises Unavailable."""
        installed = self._note_installed()
        newest = self.store.models.list_switches(1)
        if newest and newest[0].installed == installed.digest:
            self._note_switch(newest[0])
            self.version = newest[0].version
        else:  # the pipeline takes it over with its first commit
            self.version = installed.version
        if self.version != installed.version or not installed.manifest.learns:
            self.learning = None
        elif self.learning is None or self.now_ms() >= self._measure_at_ms:
            began_ms = self.now_ms()
            self.learning = measure_progress(self.store, self.settings.risk.budget)
            pause_ms = min(MEASURE_PAUSE_SHARE * (self.now_ms() - began_ms), MAX_MEASURE_PAUSE_MS)
            self._measure_at_ms = began_ms + max(pause_ms, MEASURE_EVERY_MS)

    def _version_view(self, version: str, tenants: Tenants) -> ModelVersionView:
        model = self._require_version(version)
        days = self.store.models.list_days(self.now_ms() // DAY_MS - MAX_DAYS, tenants, version)
        try:
            (newcomers, known_agents), on_disk = self._calibration_curves(model, tenants), True
        except ModelError:
            newcomers, known_agents, on_disk = [], [], False
        return ModelVersionView(
            model,
            version == self.version,
            on_disk,
            newcomers,
            observed_shares(days),
            self.store.models.history(version, 50).items,
            [switch for switch in self.store.models.list_switches() if switch.version == version],
            known_agents,
        )

    def _adopt_from_registry(self, version: str) -> None:
        """Make a version that was trained elsewhere and put into the registry a challenger like any other."""
        if self.store.models.get(version) is not None:
            return
        for registered in self.registry.versions():
            if registered.version == version:
                now_ms = self.now_ms()
                model = _version_of(registered, "challenger", "put into the registry", now_ms=now_ms)
                entry = ModelHistoryEntry(self.new_id(), now_ms, version, "trained", "operator", "found")
                self.store.models.add(model, entry)
                return

    def _note_switch(self, switch: ModelSwitch) -> None:
        """Mark the active version as champion. Each process that sees the switch does so, and all write the same."""
        model = self.store.models.get(switch.version)
        if model is None:
            return
        earlier_champions = [
            other for other in self.store.models.page("champion").items if other.version != switch.version
        ]
        if model.status == "champion" and not earlier_champions:
            return
        now_ms = self.now_ms()
        orders = [entry.act for entry in self.store.models.history(switch.version).items if entry.act in _ORDER_ACTS]
        status: ModelStatus = "rejected" if orders[:1] == ["rolled_back"] else "retired"
        replaced = [msgspec.structs.replace(other, status=status, changed_ms=now_ms) for other in earlier_champions]
        champion = msgspec.structs.replace(model, status="champion", promoted_ms=switch.at_ms, changed_ms=now_ms)
        entry = ModelHistoryEntry(
            f"switch-{switch.partition}-{switch.epoch}-{switch.offset}",
            now_ms,
            switch.version,
            "switched",
            "pipeline",
            f"active from offset {switch.offset} of partition {switch.partition} on",
            {"partition": switch.partition, "epoch": switch.epoch, "offset": switch.offset},
        )
        self.store.models.update([*replaced, champion], [entry])

    def _note_installed(self) -> RegisteredModel:
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

    def _calibration_curves(self, model: ModelVersion, tenants: Tenants) -> tuple[list[CalibrationCurve], ...]:
        """Return a version's curves for newcomers and for known agents. Raises ModelError if it is unreadable."""
        today, cached = self.now_ms() // DAY_MS, self._curves.get(model.digest)
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

    def _budget_days(self, days: int, level: str, accepted: float, tenants: Tenants) -> list[BudgetDay]:
        today = self.now_ms() // DAY_MS
        span = range(today - min(days, MAX_DAYS) + 1, today + 1)
        judged: dict[tuple[int, str, str], AlertVerdictCounts] = {}  # by the day of the alert's event
        for feedback in islice(feedback_labels(self.store.feedback, tenants), MAX_FEEDBACK_ITEMS):
            decision = self.store.decisions.get(feedback.decision_id, tenants)
            if decision is not None and (day := decision.event_time_ms // DAY_MS) in span:
                key = (day, decision.agent.tenant, decision.agent_type)
                before, true = judged.get(key, AlertVerdictCounts()), feedback.verdict == "true_positive"
                judged[key] = AlertVerdictCounts(before.false_positive + (not true), before.true_positive + true)
        return budget_chart(
            span,
            self.store.decisions.count_alerts(span.start, tenants),
            self.store.models.list_days(span.start, tenants),
            self.store.agents.count_by_group(span.start, tenants),
            judged,
            accepted,
            level,
        )


def _version_of(
    registered: RegisteredModel, status: ModelStatus, source: str, *, now_ms: int, promoted_ms: int = 0
) -> ModelVersion:
    """Return the row of a version that is in the registry and not in the store."""
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


def _check_order(caller: AuthenticatedCaller, why: str) -> str:
    """Return who orders, for the history. Raises ProblemError: 403 unless of all tenants, 422 for a long reason."""
    require_all_tenants(caller)
    if len(why) > MAX_REASON_LENGTH:
        raise invalid_value_error("why", f"has more than {MAX_REASON_LENGTH} characters")
    return caller.recorded_name


def _as_visible_to(caller: AuthenticatedCaller, model: ModelVersion) -> ModelVersion:
    return model if sees_all_tenants(caller) else msgspec.structs.replace(model, trained={}, figures={})


async def write_to_each_partition(log: GroupCommit, now_ms: Callable[[], int], payload: bytes) -> None:
    """Make a control record durable in each partition of the log. Raises LogFailed, Backpressure.

    After a failure some partitions may have it, so commands must be idempotent.
    """
    keys = [b""]
    if isinstance(log.log, TopicCommitLog):
        partitions = log.log.partitions
        keys = [key_for_partition(partition, partitions) for partition in range(partitions)]
    at_ms = now_ms()
    await log.commit([Record(RecordKind.CONTROL, 0, at_ms, payload, key) for key in keys])
