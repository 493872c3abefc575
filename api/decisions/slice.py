"""Decisions: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from trustwatch.scoring.pipeline.ipc import LevelChange
from trustwatch.scoring.records.agents import ConcernName
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.searches import FilteredPage

from ..http.agent_lookup import AGENT_PATH, AgentResolver, AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import AgentDep, ReaderDep, RuntimeDep, provided
from ..http.responses import (
    SIGNED_RESPONSES,
    CountedEventStream,
    encode_event,
    signed_response,
)
from ..http.runtime import Runtime
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    AgentParam,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from ..http.slice import ServiceRegistry, Slice
from ..http.store_executor import BulkWork, StoreExecutor
from ..http.wire import Wire
from .service import (
    DecisionFilters,
    DecisionService,
    DecisionTrends,
    LevelChangeSubscription,
    SubscriptionEnded,
    parse_time_range,
)

KEEP_ALIVE_S = 15.0
"""Silence after which a comment is sent, so that proxies keep the stream open."""

_LIST_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {**AMBIGUOUS_AGENT_RESPONSES, **SIGNED_RESPONSES}

router = APIRouter(tags=["decisions"], responses=COMMON_PROBLEMS)


class DecisionOut(Wire, of=Decision, rename={"event_time_ms": "event_time"}):
    """A change of level, with everything that led to it."""

    cause: Literal["event", "tick", "release", "feedback"]
    concern: ConcernName | None


class LevelChangeOut(Wire, of=LevelChange, rename={"event_time_ms": "event_time"}):
    """A change of level in the stream."""


def decision_out(decision: Decision) -> DecisionOut:
    """Return a decision with all its members."""
    evidence = {name: value for name, value in decision.evidence.items() if name != "indicators"}
    return DecisionOut.of(decision, evidence=evidence)


DecisionServiceDep = Annotated[DecisionService, Depends(provided(DecisionService))]


@router.get("/v1/decisions", response_model=PageOut[DecisionOut], responses=_LIST_RESPONSES, summary="List decisions")
async def list_decisions(
    request: Request,
    caller: ReaderDep,
    decisions: DecisionServiceDep,
    runtime: RuntimeDep,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    indicator: Annotated[
        str,
        Query(max_length=2048, description="Only decisions with this network, address, software, key, …, or event ID."),
    ] = "",
    level: Annotated[
        Literal["medium", "high", "critical"] | None, Query(description="Only changes from or to at least this level.")
    ] = None,
    since: Annotated[str, Query(max_length=64, description="Start of the range: `24h`, `7d`, or a UTC time.")] = "",
    until: Annotated[str, Query(max_length=64, description="End of the range, in the same form as `since`.")] = "",
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DecisionOut] | Response:
    """Changes of level, newest first. With `agent_id`, only those of one agent.

    With `indicator` or `level`, a page may be short or empty. Continue while there is a `next_cursor`. The answer is
    signed with `Accept: application/jwt`.
    """
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    times = parse_time_range(since, until, runtime.now_ms())
    filters = DecisionFilters(tenant, agent, level or "", "", *times, indicator)
    return _page_answer(request, caller, await decisions.list(caller, filters, limit, cursor))


@router.get(
    AGENT_PATH + "/decisions",
    response_model=PageOut[DecisionOut],
    responses=_LIST_RESPONSES,
    summary="List decisions about an agent",
)
async def list_agent_decisions(
    request: Request,
    agent: AgentDep,
    caller: ReaderDep,
    decisions: DecisionServiceDep,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DecisionOut] | Response:
    """The same as `GET /v1/decisions?agent_id=…`."""
    filters = DecisionFilters(agent.tenant, agent)
    return _page_answer(request, caller, await decisions.list(caller, filters, limit, cursor))


def _page_answer(
    request: Request, caller: AuthenticatedCaller, page: FilteredPage[Decision]
) -> PageOut[DecisionOut] | Response:
    answer = PageOut(items=[decision_out(decision) for decision in page.items], next_cursor=page.next_cursor)
    return signed_response(request, caller, "decisions", answer) or answer


@router.get(
    "/v1/decisions/stream",
    response_class=StreamingResponse,
    responses=problem_responses({429: "The caller has too many open streams."}),
    summary="Follow decisions",
)
async def stream_decisions(
    caller: ReaderDep, decisions: DecisionServiceDep, runtime: RuntimeDep, tenant: TenantParam = None
) -> StreamingResponse:
    """Sends one server-sent event `decision` for each change of level from now on.

    The stream ends if the client does not keep up, if its token expires, or if `callers` are reloaded.
    `GET /v1/decisions` returns what was missed. A caller may have 20 open streams.
    """
    bindings = runtime.verifier.bindings

    def expired() -> bool:
        return runtime.clock() >= caller.exp or runtime.verifier.bindings != bindings

    lines = _decision_events(decisions.subscribe(caller, tenant), expired)
    with ExitStack() as counted:
        counted.enter_context(decisions.counted_stream(caller))
        return CountedEventStream(lines, counted.pop_all())


async def _decision_events(subscription: LevelChangeSubscription, expired: Callable[[], bool]) -> AsyncIterator[bytes]:
    with subscription:
        yield format_sse_event(comment="from now on")
        while True:
            try:
                change = await subscription.next_change(KEEP_ALIVE_S)
            except SubscriptionEnded:
                return
            if expired():
                return
            if change is None:
                yield format_sse_event(comment="still here")
            else:
                body = LevelChangeOut.of(change, risk_score=round(change.risk_score, 4)).model_dump_json()
                yield encode_event("decision", body, change.decision_id)


@router.get(
    "/v1/decisions/{decision_id}",
    responses=SIGNED_RESPONSES
    | problem_responses(
        {404: "The decision does not exist.", 409: "The decision is not stored yet. Retry in a moment."}
    ),
    response_model=DecisionOut,
    summary="Retrieve a decision",
)
async def get_decision(
    request: Request,
    decision_id: Annotated[str, Path(description="id of the decision")],
    caller: ReaderDep,
    decisions: DecisionServiceDep,
) -> DecisionOut | Response:
    """Returns a decision with its feature vector and the evidence that led to it.

    The answer is signed with `Accept: application/jwt`.
    """
    decision = decision_out(await decisions.get(caller, decision_id))
    return signed_response(request, caller, "decision", decision) or decision


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor = services.get(Runtime), services.get(StoreExecutor)
    bulk = services.get(BulkWork)
    decisions = DecisionService(runtime, services.get(AgentResolver), executor, bulk)
    return decisions, DecisionTrends(runtime, executor)


SLICE = Slice("decisions", routers=(router,), services=_make_services)
