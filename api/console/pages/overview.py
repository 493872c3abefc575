"""The overview."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...callers import SCORE_READ
from ...http.finding import visible_tenants
from ..gate import Desk, Looking
from .entry import Entry

ENTRY = Entry("Overview", "/console/", SCORE_READ)

router = APIRouter()


@router.get("/")
async def overview(request: Request, desk: Desk, visit: Looking) -> Response:
    """The whole page."""
    counts = await desk.figures.levels(visible_tenants(visit.caller, None))
    return desk.page(request, "overview.html", visit, counts=counts)
