"""Bodies of answers and requests about models."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_day, format_rfc3339
from trustwatch.scoring.learning.budget_chart import BudgetDay
from trustwatch.scoring.learning.calibration_curve import CalibrationCurve
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelStatus, ModelSwitch, ModelVersion, PeerGroupDay

from ..http.schemas import TimeText, format_rfc3339_or_none
from .service import ModelVersionView

DayText = Annotated[str, Field(description="day of UTC", examples=["2026-11-24"])]


class _ModelSchema(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class TrainingWindowOut(BaseModel):
    """The history that a version learned from."""

    from_at: TimeText
    to_at: TimeText


class ModelOut(_ModelSchema):
    """One version."""

    version: str
    status: ModelStatus
    in_force: bool = Field(description="whether events are judged by it now")
    digest: str = Field(description="SHA-256 of its manifest, which holds that of every file")
    window: TrainingWindowOut
    created_at: TimeText
    promoted_at: TimeText | None = Field(description="when it last came into force; null = never")
    changed_at: TimeText | None
    trained: dict[str, Any] = Field(description="what it learned from, and what was left out; of all tenants")
    figures: dict[str, Any] = Field(description="how it fares in shadow against the champion; of all tenants")


class ModelPageOut(_ModelSchema):
    """A page of versions, newest first."""

    items: list[ModelOut]
    next_cursor: str | None
    in_force: str
    keeper: bool = Field(description="whether a process trains and runs models in shadow here (`lifecycle.enabled`)")
    learning: str | None = Field(
        description="how much history there is while no trained model is in force, for callers of all tenants"
    )


class ModelHistoryEntryOut(_ModelSchema):
    """One line of the history, which is only ever added to."""

    at: TimeText
    version: str
    act: str
    by: str
    why: str
    detail: dict[str, Any]


class CalibrationPointOut(BaseModel):
    """Point of a calibration curve: of normal behaviour a share of `p_value` has a score of at least `score`."""

    score: float
    p_value: float


class CalibrationCurveOut(BaseModel):
    """Calibration of one peer group; `*` is the fleet."""

    tenant: str
    agent_type: str
    events: int = Field(description="held-out events that it rests on")
    points: list[CalibrationPointOut]


class ObservedShareOut(BaseModel):
    """Promised against observed: of the events in shadow, `share` had a p-value of at most `p_value`."""

    p_value: float
    share: float
    events: int


class ModelSwitchOut(_ModelSchema):
    """Switch of versions: from `offset` of `partition` on the version is in force."""

    partition: int
    epoch: int
    offset: int
    version: str
    at: TimeText


class PromotionJudgementOut(BaseModel):
    """Judgement by figures: the version may be promoted if `reasons` is empty."""

    gains: list[str]
    reasons: list[str]


class ModelDetailOut(ModelOut):
    """One version with its calibration and what became of it."""

    judgement: PromotionJudgementOut | None = Field(description="of a challenger")

    on_disk: bool = Field(description="whether its directory is there")
    calibration: list[CalibrationCurveOut] = Field(
        description="of agents that the version does not know from its history"
    )
    calibration_known: list[CalibrationCurveOut] = Field(
        description="of those that it knows; empty where it was not rehearsed, and `calibration` judges them, too"
    )
    observed: list[ObservedShareOut]
    history: list[ModelHistoryEntryOut]
    switches: list[ModelSwitchOut]


class DriftOut(_ModelSchema):
    """One peer group on one day against the training history."""

    version: str
    day: DayText
    tenant: str
    agent_type: str
    events: int
    judged: bool = Field(description="whether the day is over and held enough events")
    scores: float | None = Field(description="population stability index of p-values against uniform")
    features: dict[str, float] = Field(description="population stability index of features, the largest first")
    drifted: list[str] = Field(description="what is beyond its threshold; `scores` among them stands for p-values")


class DriftPageOut(BaseModel):
    """Drift by day and group, oldest first."""

    items: list[DriftOut]
    thresholds: dict[str, float]


class BudgetOut(BaseModel):
    """The false-alert budget of one peer group and day."""

    day: DayText
    tenant: str
    agent_type: str
    agent_days: int
    estimated: bool = Field(description="agent-days are estimated from when agents were seen first and last")
    expected: float
    observed: int
    false_positive: int
    true_positive: int
    unmarked: int
    limit: int = Field(description="the most alerts that do not stand out")
    run_observed: int = Field(description="of the last seven days, true positives left out")
    run_limit: int
    beyond: bool
    run_beyond: bool


class BudgetPageOut(BaseModel):
    """The control chart, oldest day first."""

    level: Literal["medium", "high", "critical"]
    budget: float = Field(description="alerts accepted per 1,000 agent-days")
    items: list[BudgetOut]


class ModelOrderIn(BaseModel):
    """Order about a model, with its reason."""

    why: str = Field(default="", max_length=2000)


class PromotionIn(ModelOrderIn):
    """A promotion. One that the figures do not allow needs `force` and a reason."""

    force: bool = False


class ModelOrderOut(_ModelSchema):
    """An accepted order. It is done when `GET /v1/models` says so."""

    version: str | None = Field(description="null = it has no name yet")
    by: str
    status: Literal["ordered"]


def calibration_curve_out(curve: CalibrationCurve) -> CalibrationCurveOut:
    points = [CalibrationPointOut(**point._asdict()) for point in curve.points]
    return CalibrationCurveOut(tenant=curve.tenant, agent_type=curve.agent_type, events=curve.events, points=points)


def model_out(model: ModelVersion, in_force: str) -> ModelOut:
    """A version as it is answered."""
    return ModelOut(
        version=model.version,
        status=model.status,
        in_force=model.version == in_force,
        digest=model.digest,
        window=TrainingWindowOut(from_at=format_rfc3339(model.from_ms), to_at=format_rfc3339(model.to_ms)),
        created_at=format_rfc3339(model.created_ms),
        promoted_at=format_rfc3339_or_none(model.promoted_ms),
        changed_at=format_rfc3339_or_none(model.changed_ms),
        trained=model.trained,
        figures=model.figures,
    )


def model_history_entry_out(entry: ModelHistoryEntry) -> ModelHistoryEntryOut:
    """A line of history as it is answered."""
    return ModelHistoryEntryOut(
        at=format_rfc3339(entry.at_ms),
        version=entry.version,
        act=entry.act,
        by=entry.by,
        why=entry.why,
        detail=entry.detail,
    )


def model_switch_out(switch: ModelSwitch) -> ModelSwitchOut:
    """A switch as it is answered."""
    return ModelSwitchOut(
        partition=switch.partition,
        epoch=switch.epoch,
        offset=switch.offset,
        version=switch.version,
        at=format_rfc3339(switch.at_ms),
    )


def model_detail_out(view: ModelVersionView, in_force: str) -> ModelDetailOut:
    """A version with all that is known of it, as it is answered; of a challenger, with its judgement."""
    judgement = view.judgement if view.model.status == "challenger" else None
    return ModelDetailOut(
        **model_out(view.model, in_force).model_dump(),
        on_disk=view.on_disk,
        judgement=None if judgement is None else PromotionJudgementOut(**judgement._asdict()),
        calibration=[calibration_curve_out(curve) for curve in view.curves],
        calibration_known=[calibration_curve_out(curve) for curve in view.known_agent_curves],
        observed=[ObservedShareOut(**share._asdict()) for share in view.observed],
        history=[model_history_entry_out(entry) for entry in view.history],
        switches=[model_switch_out(switch) for switch in view.switches],
    )


def drift_out(group_day: PeerGroupDay) -> DriftOut:
    """Drift of a group and day as it is answered."""
    said = group_day.drift
    return DriftOut(
        version=group_day.version,
        day=format_day(group_day.day),
        tenant=group_day.tenant,
        agent_type=group_day.agent_type,
        events=group_day.events,
        judged=bool(said.get("judged")),
        scores=said.get("scores"),
        features=said.get("features", {}),
        drifted=said.get("drifted", []),
    )


def budget_day_out(row: BudgetDay) -> BudgetOut:
    """A row of the control chart as it is answered."""
    return BudgetOut(**row._asdict() | {"day": format_day(row.day)})
