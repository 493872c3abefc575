"""Decisions: the list, and one of them with what led to it and what followed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ....ingest.errors import TrustwatchError
from ....scoring.containment import Actuation, Intervention
from ....scoring.records import Decision, Delivery, RiskLevel
from ....scoring.store import Store
from ...callers import ADMIN, FEEDBACK, SCORE_READ
from ...http.finding import no_such, visible_tenants
from ...http.route_decisions import key_of
from ...problems import ProblemError
from ..gate import Console, Desk, Looking, Visit
from ..views.decisions import decision_shown, follows, policy_words
from ..views.deliveries import DECIDED, alerts_shown
from ..views.scanning import Narrowed, narrowed
from .entry import Entry

NEIGHBOURS = 200
"""Decisions about the same agent among which the next and the one before are looked for."""

ENTRY = Entry("Decisions", "/console/decisions", SCORE_READ)

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]


class Wanted(NamedTuple):
    """Filters of the list; "" = any."""

    tenant: str
    agent: str
    level: str
    change: str
    issuer: str = ""


class Followed(NamedTuple):
    """What there is beside a decision: its neighbours, and what it set off."""

    later: Decision | None
    earlier: Decision | None
    deliveries: list[Delivery]
    actuations: list[Actuation]
    interventions: list[Intervention]


@router.get("/decisions")
async def decisions(
    request: Request,
    desk: Desk,
    visit: Looking,
    tenant: Text = "",
    agent: Text = "",
    level: Text = "",
    change: Text = "",
    cursor: Cursor = "",
    issuer: Text = "",
) -> Response:
    """Changes of level, newest first. Of several agents with the id that is asked for, one has to be chosen."""
    wanted = Wanted(tenant.strip(), agent.strip(), level, change, issuer)
    trouble, found, among = "", Narrowed[Decision]([], None, 0), []
    try:
        found = await _list(desk, visit, wanted, cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
        if isinstance(error, ProblemError):
            among = [wanted._replace(**one) for one in error.problem.members.get("candidates", ())]
    return desk.page(
        request,
        "decisions.html",
        visit,
        400 if trouble else 200,
        wanted=wanted,
        found=found,
        trouble=trouble,
        among=among,
        first_page=not cursor,
    )


async def _list(desk: Console, visit: Visit, wanted: Wanted, cursor: str | None) -> Narrowed[Decision]:
    parts, tenant = desk.parts, wanted.tenant or None
    tenants, key = visible_tenants(visit.caller, tenant), None
    if wanted.agent:
        key = await key_of(parts, visit.caller, wanted.agent, tenant, wanted.issuer or None)
        if key is None:
            return Narrowed([], None, 0)
    store = parts.services.store
    return await parts.read(
        narrowed, lambda at: store.list_decisions(tenants, key, 50, at), lambda one: fits(one, wanted), cursor
    )


def fits(decision: Decision, wanted: Wanted) -> bool:
    """Whether the list shows it; *wanted* levels that are no levels show all."""
    rises = decision.level > decision.previous_level
    if wanted.change in ("up", "down") and rises != (wanted.change == "up"):
        return False
    least = RiskLevel.__members__.get(wanted.level.upper())
    return least is None or max(decision.level, decision.previous_level) >= least


@router.get("/decisions/{decision_id}")
async def decision(decision_id: str, request: Request, desk: Desk, visit: Looking) -> Response:
    """One decision."""
    services, tenants = desk.parts.services, visible_tenants(visit.caller, None)
    store = services.store
    found = await desk.parts.read(store.decision, decision_id, tenants)
    if found is None:
        raise no_such("decision")
    may_see_alerts = ADMIN in visit.caller.scopes
    may_judge = services.feedback is not None and _may_judge(visit, found)
    followed = await desk.parts.read(followed_by, store, found, tenants, with_alerts=may_see_alerts)
    shown = decision_shown(found, services.policy.book)
    return desk.page(
        request,
        "decision.html",
        visit,
        shown=shown,
        followed=followed,
        policy=policy_words(shown.policy.policy),
        alerts=alerts_shown(followed.deliveries),
        may_see_alerts=may_see_alerts,
        may_judge=may_judge,
        has_targets=bool(services.settings.webhooks),
        has_actuators=bool(services.settings.actuators),
    )


def followed_by(store: Store, decision: Decision, tenants: Collection[str] | None, *, with_alerts: bool) -> Followed:
    """Read what there is beside *decision*; blocks."""
    key = decision.agent.key
    deliveries = store.list_deliveries(tenants, key=f"{DECIDED}{decision.decision_id}").items if with_alerts else []
    actuations = follows(store.list_actuations(tenants, key).items, decision.decision_id)
    later, earlier = _neighbours(store.list_decisions(tenants, key, NEIGHBOURS).items, decision.decision_id)
    until_ms = later.decided_ms if later is not None else None
    interventions = [
        one
        for one in store.list_interventions(tenants, agent_key=key, limit=NEIGHBOURS).items
        if one.asked_ms >= decision.decided_ms and (until_ms is None or one.asked_ms < until_ms)
    ]
    return Followed(later, earlier, deliveries, actuations, interventions)


def _neighbours(newest_first: list[Decision], decision_id: str) -> tuple[Decision | None, Decision | None]:
    """The decisions after and before the one of that id, as far as they are among those given."""
    ids = [one.decision_id for one in newest_first]
    if decision_id not in ids:
        return None, None
    at = ids.index(decision_id)
    later = newest_first[at - 1] if at > 0 else None
    return later, newest_first[at + 1] if at + 1 < len(ids) else None


def _may_judge(visit: Visit, decision: Decision) -> bool:
    """Whether the person may say what it thinks of the decision: of one that raised the agent to medium or above."""
    return FEEDBACK in visit.caller.scopes and decision.level > max(decision.previous_level, RiskLevel.LOW)
