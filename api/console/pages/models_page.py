"""The model: versions, what they learned, whether they still fit, and alerts against the budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.timestamps import DAY_S, format_day
from trustwatch.scoring.learning.budget_chart import BudgetDay, CalibrationCurve, ObservedShare, upper_control_limit
from trustwatch.scoring.learning.promotion import DRIFTED_FEATURES, DRIFTED_SCORES, comparison_from_dict
from trustwatch.scoring.records.models import PeerGroupDay

from ...charts import ChartAxis, ChartSeries, chart
from ...http.auth.callers import SCOPE_ADMIN
from ...http.problems import ProblemError
from ...models.service import MAX_REASON_LENGTH, ModelService, sees_all_tenants
from ..page_dependencies import FormDep, PageAdministratorDep, PageReaderDep, PageRequest, Text
from ..rendering import url_with_query
from .decisions_page import feature_noun

SHOWN_DAYS: Final = 30
BUDGET_LEVELS: Final = ("medium", "high", "critical")
_STYLES: Final = ("first", "second dash-a", "medium dash-b", "critical dash-c")

router = APIRouter()


@router.get("/models")
async def list_models(visit: PageReaderDep, level: Text = "medium", ordered: Text = "", before: Text = "") -> Response:
    """Show versions, the active version, drift and budget. A page that waits for a version other than *before* polls
    until it exists, and gets no content until then.
    """
    if before and visit.is_part and visit.get(ModelService).version == before:
        return Response(status_code=204)
    return await _models_page(visit, level=level, ordered=ordered, before=before)


async def _models_page(
    visit: PageRequest,
    *,
    level: str = "medium",
    ordered: str = "",
    before: str = "",
    trouble: str = "",
    status: int = 200,
) -> Response:
    level, models, caller = level if level in BUDGET_LEVELS else "medium", visit.get(ModelService), visit.caller
    budget = await models.budget(caller, SHOWN_DAYS, level)
    beyond = [row for row in budget.days if row.beyond or row.run_beyond]
    drift = await models.drift(caller, SHOWN_DAYS)
    everybody, days = sees_all_tenants(caller), _budget_totals(budget.days)
    return visit.render(
        "models.html",
        status,
        everybody=everybody,
        versions=(await models.versions(caller, 50)).items,
        in_force=models.version,
        level=level,
        chart=_budget_chart(days, level) if days else None,
        beyond=sorted(beyond, key=lambda row: (-row.day, -row.observed, row.tenant, row.agent_type))[:30],
        accepted=budget.accepted,
        history=(await models.history(caller, 20)).items if everybody else [],
        drifted=_largest_drifts(drift, DRIFTED_FEATURES, DRIFTED_SCORES),
        bounds={"features": DRIFTED_FEATURES, "scores": DRIFTED_SCORES},
        trains_models=models.trains_models,
        learning=models.learning_for(caller),
        day=format_day,
        group=_describe_group,
        ordered=ordered,
        before=before,
        trouble=trouble,
        may_order=visit.has(SCOPE_ADMIN) and everybody,
    )


@router.post("/models/rollback")
async def order_rollback(visit: PageAdministratorDep, form: FormDep) -> Response:
    return await _answer_order(visit, "rollback", visit.get(ModelService).rollback(visit.caller, _reason_of(form)))


@router.post("/models/train")
async def order_training(visit: PageAdministratorDep, form: FormDep) -> Response:
    return await _answer_order(visit, "training", visit.get(ModelService).train(visit.caller, _reason_of(form)))


@router.post("/models/{version}/promote")
async def order_promotion(version: str, visit: PageAdministratorDep, form: FormDep) -> Response:
    forced = form.get("force") == "yes"
    order = visit.get(ModelService).promote(visit.caller, version, _reason_of(form), force=forced)
    return await _answer_order(visit, "promotion", order)


def _reason_of(form: Mapping[str, str]) -> str:
    return form.get("why", "")[:MAX_REASON_LENGTH]


async def _answer_order(visit: PageRequest, kind: str, order: Awaitable[object]) -> Response:
    """Redirect to the page, which confirms the order, or render it with the error."""
    before = "" if kind == "training" else visit.get(ModelService).version
    try:
        await order
    except ProblemError as error:
        return await _models_page(visit, trouble=f"Nothing was ordered: {error}.", status=error.problem.status)
    return RedirectResponse(url_with_query("/console/models", ordered=kind, before=before), 303)


@router.get("/models/{version}")
async def show_model(version: str, visit: PageReaderDep, group: Text = "") -> Response:
    """Show one version with its calibration, and whether its figures allow its promotion."""
    models = visit.get(ModelService)
    view = await models.version_detail(visit.caller, version)
    everybody = sees_all_tenants(visit.caller)
    rests_on = [("Known agents", curve) for curve in view.known_agent_curves]
    rests_on += [("Newcomers", curve) for curve in view.curves]
    curves = _select_curves(view.curves, view.known_agent_curves, {group} - {""})
    return visit.render(
        "model.html",
        view=view,
        model=view.model,
        trained=[
            (name.replace("_", " ").capitalize(), f"{value:,}" if isinstance(value, int) else str(value))
            for name, value in view.model.trained.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        ],
        everybody=everybody,
        calibration=_calibration_chart(curves) if curves else None,
        chosen=group,
        groups=sorted({_describe_curve_group(curve) for _, curve in rests_on if curve.tenant != "*"}),
        rests_on=rests_on,
        honesty=_reliability_chart(view.observed) if view.observed else None,
        group=_describe_group,
        judged=None if view.in_force else view.judgement,
        figures=comparison_from_dict(view.model.figures),
        alert_levels=BUDGET_LEVELS,
        in_force=models.version,
        may_order=visit.has(SCOPE_ADMIN) and everybody,
    )


class _BudgetTotal(NamedTuple):
    """Sum over the peer groups that the caller may see, on one day; more alerts than `limit` are highlighted."""

    day: int
    expected: float
    observed: int
    limit: int
    false_positive: int
    true_positive: int


class _Drift(NamedTuple):
    """One feature (or the scores) of one group on its last judged day; *beyond*: whether it exceeds its threshold."""

    day: int
    group: str
    name: str
    label: str
    value: float
    beyond: bool


def _describe_group(tenant: str, agent_type: str) -> str:
    if tenant == "*":
        return "the fleet"
    return f"{agent_type or 'agents without a type'} of {tenant or 'no tenant'}"


def _budget_totals(rows: Sequence[BudgetDay]) -> list[_BudgetTotal]:
    """Return the daily totals of all groups. Limits are those of the sum, not the sum of limits."""
    days: defaultdict[int, list[BudgetDay]] = defaultdict(list)
    for row in rows:
        days[row.day].append(row)
    return [
        _BudgetTotal(
            day,
            expected := sum(row.expected for row in groups),
            sum(row.observed for row in groups),
            upper_control_limit(expected),
            sum(row.false_positive for row in groups),
            sum(row.true_positive for row in groups),
        )
        for day, groups in sorted(days.items())
    ]


def _budget_chart(days: Sequence[_BudgetTotal], level: str) -> Markup:
    """Chart daily alerts against the budget's expectation, and the limit that they should not exceed."""
    lines = (
        ("alerts", "observed", "first", True),
        ("limit (3 sigma)", "limit", "critical dashed", True),
        ("expected by the budget", "expected", "allowed", True),
        ("marked as false", "false_positive", "", False),
        ("marked as true", "true_positive", "", False),
    )
    series = [
        ChartSeries(
            name,
            [(day.day * DAY_S, getattr(day, member)) for day in days],
            style,
            steps=member == "limit",
            drawn=is_drawn,
        )
        for name, member, style, is_drawn in lines
    ]
    title = f"Alerts of {level} or above, by day"
    return chart(title, ChartAxis("day (UTC)", kind="utc"), ChartAxis("alerts", 0.0, kind="count"), series)


def _calibration_chart(curves: Sequence[tuple[str, CalibrationCurve]]) -> Markup:
    """Chart scores as p-values: the share of held-out normal events that score at least as high."""
    series = [
        ChartSeries(name, [(at.score, at.p_value) for at in curve.points], style)
        for (name, curve), style in zip(curves, _STYLES, strict=False)
    ]
    title = "Calibration: from an anomaly score to a p-value"
    return chart(title, ChartAxis("anomaly score"), ChartAxis("p-value", maximum=1.0, log=True), series)


def _reliability_chart(shares: Sequence[ObservedShare]) -> Markup:
    """Chart expected against observed shares: at most a share p of live events should have a p-value of at most p."""
    series = [
        ChartSeries("observed in shadow", [(observed.p_value, observed.share) for observed in shares], "first"),
        ChartSeries("as promised", [(observed.p_value, observed.p_value) for observed in shares], "allowed"),
    ]
    title = "Share of live events up to each p-value"
    return chart(title, ChartAxis("p-value", log=True), ChartAxis("share of events", log=True), series)


def _largest_drifts(
    days: Sequence[PeerGroupDay], features_above: float, scores_above: float, most: int = 20
) -> list[_Drift]:
    """Return the largest drifts of the last judged day of each group, in multiples of the threshold, largest first."""
    last: dict[tuple[str, str], PeerGroupDay] = {}
    for one in sorted(days, key=lambda one: one.day):
        if one.drift.get("judged"):
            last[one.tenant, one.agent_type] = one
    drifts = []
    for one in last.values():
        features: dict[str, Any] = one.drift.get("features") or {}
        measures = [(name, feature_noun(name), value, features_above) for name, value in features.items()]
        for name, label, value, limit in (
            *measures,
            ("scores", "anomaly scores", one.drift.get("scores"), scores_above),
        ):
            if isinstance(value, int | float):
                group = _describe_group(one.tenant, one.agent_type)
                drifts.append(_Drift(one.day, group, name, label, float(value), value > limit))
    return sorted(drifts, key=lambda row: (not row.beyond, -row.value))[:most]


def _select_curves(
    newcomers: Sequence[CalibrationCurve], familiar: Sequence[CalibrationCurve], names: Collection[str]
) -> list[tuple[str, CalibrationCurve]]:
    """Return at most four curves to draw: the fleet's, and those of selected groups, otherwise of the largest.

    A version with walk-forward validation has pairs, for known agents and newcomers: each agent is judged by one of the
    two. Other versions have only those of newcomers, by which all agents are judged.
    """
    if not familiar:
        chosen = _select_groups(newcomers, names)[: len(_STYLES)]
        return [(_describe_curve_group(curve), curve) for curve in chosen]
    groups = [(curve.tenant, curve.agent_type) for curve in _select_groups(familiar, names)[:2]]
    parts = (("known agents", familiar), ("newcomers", newcomers))
    return [
        (f"{kind}, {_describe_curve_group(curve)}", curve)
        for group in groups
        for kind, curves in parts
        for curve in curves
        if (curve.tenant, curve.agent_type) == group
    ]


def _describe_curve_group(curve: CalibrationCurve) -> str:
    return _describe_group(curve.tenant, curve.agent_type)


def _select_groups(curves: Sequence[CalibrationCurve], names: Collection[str]) -> list[CalibrationCurve]:
    fleet = [curve for curve in curves if curve.tenant == "*"]
    others = [curve for curve in curves if curve.tenant != "*"]
    named = [curve for curve in others if _describe_curve_group(curve) in names]
    return [*fleet, *(named or sorted(others, key=lambda curve: -curve.events))]
