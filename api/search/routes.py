"""Route of the search."""
# No postponed annotations here: FastAPI reads them.

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from ..http.dependencies import ReaderDep, provided
from ..http.schemas import COMMON_PROBLEMS, problem_responses
from .query import FOUND_KINDS, MAX_QUERY_LENGTH, FoundKind
from .schemas import SearchOut, search_out
from .service import DEFAULT_FOUND, MAX_FOUND, SearchService

router = APIRouter(tags=["search"], responses=COMMON_PROBLEMS)

SearchServiceDep = Annotated[SearchService, Depends(provided(SearchService))]


@router.get(
    "/v1/search",
    responses=problem_responses({422: "the query can not be read; the answer says what is wrong with it"}),
    summary="Find agents, people, cases, decisions and events",
)
async def search_everything(
    caller: ReaderDep,
    search_service: SearchServiceDep,
    q: Annotated[
        str,
        Query(
            max_length=MAX_QUERY_LENGTH,
            description="words, and `field:value` with `*` for anything; all have to hold",
            examples=["address:203.0.113.0/24 since:24h"],
        ),
    ],
    kind: Annotated[list[FoundKind] | None, Query(description="what to look for; none = everything")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_FOUND, description="most of each kind")] = DEFAULT_FOUND,
) -> SearchOut:
    """Find what fits a query, by kind; each look is bounded and says whether it saw all. Scope `trust.score:read`.

    A word is looked for in every name, in whatever case. A field has the whole value as it is written.
    """
    return search_out(await search_service.search(caller, q, kind or FOUND_KINDS, limit))
