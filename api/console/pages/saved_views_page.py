"""Saved views: their forms, which stand on the pages of the lists."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.responses import RedirectResponse, Response

from ...http.problems import invalid_value_error
from ..console_sessions import PageRequest
from ..page_dependencies import ConsoleDep, FormDep, require_console_scope
from ..saved_views import find_changeable_view, remove_view, rename_view, save_view
from ..views.list_shapes import SHAPES

MENU_ENTRY: Final = None
SHARE_PREFIX: Final = "tenant:"
"""Stands before the tenant in the form: a tenant may have no name."""

router = APIRouter()

AnybodyDep = Annotated[PageRequest, Depends(require_console_scope(""))]
"""The person who is signed in: which scope it takes depends on the list."""


@router.post("/views")
async def save_shown_view(console: ConsoleDep, visit: AnybodyDep, form: FormDep) -> Response:
    """Save what a page shows, for oneself or for the readers of a tenant."""
    shape = SHAPES.get(form.get("page", ""))
    if shape is None:
        raise invalid_value_error("page", f"must be one of {', '.join(SHAPES)}")
    query, share = shape.read_query(form.get("query", "")), form.get("share", "")
    tenant = share.removeprefix(SHARE_PREFIX) if share.startswith(SHARE_PREFIX) else None
    view = await save_view(console, visit.caller, shape, form.get("name", ""), query, tenant=tenant)
    return RedirectResponse(shape.url(view.query), 303)


@router.post("/views/{view_id}")
async def change_view(view_id: str, console: ConsoleDep, visit: AnybodyDep, form: FormDep) -> Response:
    """Give a view another name, or remove it."""
    view, shape = await find_changeable_view(console, visit.caller, view_id)
    match form.get("action"):
        case "rename":
            await rename_view(console, view, form.get("name", ""))
            return RedirectResponse(shape.url(view.query), 303)
        case "remove":
            await remove_view(console, view)
            return RedirectResponse(shape.path, 303)
    raise invalid_value_error("action", "must be rename or remove")
