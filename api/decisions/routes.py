"""Decisions: history, single records, a live stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from ...ingest.hashing import agent_key
from ...scoring.pipeline.pipeline_status import PipelineStatus
from ..http.agent_lookup import ambiguous_agent_error, find_agent_entry, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import ApplicationContext, ContextDep, ReaderDep
from ..http.schemas import CursorParam, IssuerParam, LimitParam, PageOut, TenantParam
from ..http.server_sent_events import encode_comment, encode_event, event_stream
from .schemas import DecisionOut, decision_out, level_change_out

KEEP_ALIVE_S = 15.0
"""Silence after which a comment is sent, so that proxies keep the stream open."""

router = APIRouter(tags=["decisions"])


@router.get("/v1/decisions", summary="List decisions")
async def list_decisions(
    parts: ContextDep,
    caller: ReaderDep,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DecisionOut]:
    """Changes of level, newest first; of one agent, where `agent_id` is given. Scope `trust.score:read`."""
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await resolve_agent_key(parts, caller, agent_id, tenant, issuer)
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.call_store(parts.runtime.store.list_decisions, tenants, key, limit, cursor)
    return PageOut(items=[decision_out(decision) for decision in page.items], next_cursor=page.next_cursor)


@router.get("/v1/agents/{agent_id:path}/decisions", summary="Decisions about one agent")
async def list_agent_decisions(
    agent_id: str,
    parts: ContextDep,
    caller: ReaderDep,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DecisionOut]:
    """The same as `GET /v1/decisions?agent_id=…`."""
    return await list_decisions(parts, caller, agent_id, tenant, issuer, limit, cursor)


async def resolve_agent_key(
    parts: ApplicationContext, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None
) -> int | None:
    """Key of the agent that is meant; the store knows those that the view has let go."""
    if tenant is not None and issuer is not None:
        return agent_key(tenant, issuer, agent_id)
    entry = find_agent_entry(parts.runtime.risk_view, caller, agent_id, tenant, issuer)
    if entry is not None:
        return entry.summary.name.key
    stored = await parts.call_store(parts.runtime.store.find_agents, agent_id, visible_tenants(caller, tenant))
    names = [summary.name for summary in stored if issuer is None or summary.name.issuer == issuer]
    if len(names) > 1:
        raise ambiguous_agent_error(names)
    return names[0].key if names else None


@router.get("/v1/decisions/stream", response_class=StreamingResponse, summary="Follow decisions")
async def stream_decisions(parts: ContextDep, caller: ReaderDep, tenant: TenantParam = None) -> StreamingResponse:
    """Server-sent events `decision`, one per change of level from now on. Scope `trust.score:read`.

    A reader that does not keep up is cut off, and so is one whose token has expired; `GET /v1/decisions` has what it
    missed.
    """
    tenants = visible_tenants(caller, tenant)
    allowed = None if tenants is None else frozenset(tenants)
    lines = _decision_events(parts.runtime.pipeline_status, allowed, lambda: parts.runtime.clock() >= caller.exp)
    return event_stream(lines, {"Cache-Control": "no-store"})


async def _decision_events(
    status: PipelineStatus, tenants: frozenset[str] | None, expired: Callable[[], bool]
) -> AsyncIterator[bytes]:
    queue = status.subscribe()
    try:
        yield encode_comment("from now on")
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    change = await queue.get()
            except TimeoutError:
                if expired():
                    return
                yield encode_comment("still here")
                continue
            if change is None or expired():
                return
            if tenants is None or change.tenant in tenants:
                body = msgspec.json.encode(level_change_out(change)).decode()
                yield encode_event("decision", body, change.decision_id)
    finally:
        status.unsubscribe(queue)


@router.get("/v1/decisions/{decision_id}", summary="One decision")
async def get_decision(decision_id: str, parts: ContextDep, caller: ReaderDep) -> DecisionOut:
    """A decision with its feature vector and the snapshots that led to it. Scope `trust.score:read`."""
    found = await parts.call_store(parts.runtime.store.decision, decision_id, visible_tenants(caller, None))
    if found is None:
        raise not_found_error("decision")
    return decision_out(found)
