"""Search: everything that a query fits, by kind; events come last, since they take longest to find."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ...cases.consequences import case_title
from ...events.event_origin import origin_of
from ...http.problems import ProblemError
from ...search.query import FIELDS, FOUND_KINDS, MAX_QUERY_LENGTH, FoundKind
from ...search.service import Found, SearchResult
from ..page_dependencies import ConsoleDep, PageReaderDep, SearchServiceDep
from ..rendering import lead_reason

MENU_ENTRY = None

router = APIRouter()

QueryText = Annotated[str, Query(max_length=MAX_QUERY_LENGTH)]
_STORED_KINDS = tuple(kind for kind in FOUND_KINDS if kind != "events")
EVENTS_ALONE: Final[tuple[FoundKind, ...]] = ("events",)


@router.get("/search")
async def search(
    request: Request, console: ConsoleDep, visit: PageReaderDep, search_service: SearchServiceDep, q: QueryText = ""
) -> Response:
    """Find what fits, but for events, which the page asks for when it is shown."""
    trouble, result = "", None
    if q.strip():
        try:
            result = await search_service.search(visit.caller, q, _STORED_KINDS)
        except ProblemError as error:
            trouble = f"The query {str(error).removeprefix('q: ')}."
    return console.render_page(
        request,
        "search.html",
        visit,
        400 if trouble else 200,
        searched=q,
        result=result,
        trouble=trouble,
        nothing=result is not None and bool(_found(result)) and not any(found.items for _, found in _found(result)),
        looked_for=[] if result is None else [_SINGULAR[kind] for kind, _ in _found(result)],
        missed=[]
        if result is None
        else [(k, found) for k, found in _found(result) if not (found.items or found.complete)],
        fields=FIELDS,
        case_title=case_title,
        reason_of=lead_reason,
    )


@router.get("/search/events")
async def search_events(
    request: Request, console: ConsoleDep, visit: PageReaderDep, search_service: SearchServiceDep, q: QueryText = ""
) -> Response:
    """Events that fit."""
    result = await search_service.search(visit.caller, q, EVENTS_ALONE)
    return console.render_page(
        request,
        "search_events.html",
        visit,
        searched=q,
        found=result.events,
        query=result.query,
        origin_of=origin_of,
        interval_s=console.runtime.settings.archive.interval_s,
    )


def _found(result: SearchResult) -> list[tuple[str, Found[Any]]]:
    """Results of the kinds that were looked for."""
    kinds = {
        "cases": result.cases,
        "agents": result.agents,
        "people": result.people,
        "decisions": result.decisions,
    }
    return [(kind, found) for kind, found in kinds.items() if found is not None]


_SINGULAR: Final = {"cases": "case", "agents": "agent", "people": "person", "decisions": "decision"}
