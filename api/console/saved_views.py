"""The look of a list: its columns and order of now, and the views that were saved of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import Request

from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.store.saved_view_store import MAX_VIEWS, SavedView

from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError, invalid_value_error
from ..http.store_executor import StoreExecutor
from .console_sessions import PageRequest
from .page_dependencies import BACKGROUND_HEADER, ConsoleContext
from .views.list_shapes import COLUMN, SHAPES, SORT, ListQuery, ListShape

MAX_NAME_LENGTH: Final = 80
MAX_SHARING_TENANTS: Final = 200
"""Tenants that an administrator of many is offered to share a view with."""


class ListedView(NamedTuple):
    """A saved view in the menu of its page.

    Attributes:
        chosen: whether it is what the page shows now.
        may_change: whether this person may give it another name, and remove it.
    """

    view: SavedView
    url: str
    chosen: bool
    may_change: bool


class ListDisplay(NamedTuple):
    """All that a page shows of its list beside the rows.

    Attributes:
        shown: names of the columns that are shown.
        order: the column that orders the rows, see `ListShape.order`.
        kept: parameters that links to other rows of the list carry.
        query: what a view of this page would keep, as in an address.
        views: those in the menu.
        tenants: with whose readers this person may share one.
    """

    shape: ListShape
    shown: Sequence[str]
    order: str
    kept: ListQuery
    query: str
    views: Sequence[ListedView]
    tenants: Sequence[str]

    def links(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of links to other rows of the list: its filters, and what is kept beside them."""
        return {**filters, **self.kept}


async def display_list(console: ConsoleContext, visit: PageRequest, request: Request, shape: ListShape) -> ListDisplay:
    """The look that *request* asks for. A page that is only brought up to date has no menu, and none is read."""
    query = shape.clean_query(request.query_params.multi_items())
    kept = {name: query[name] for name in (COLUMN, SORT) if name in query}
    views: Sequence[ListedView] = ()
    tenants: Sequence[str] = ()
    if BACKGROUND_HEADER not in request.headers and "hx-request" not in request.headers:
        views = await _list_views(console, visit.caller, shape, query)
        tenants = await _sharing_tenants(console, visit.caller)
    shown = shape.shown_columns(query.get(COLUMN, ()))
    order = query.get(SORT, [""])[0]
    return ListDisplay(shape, shown, order, kept, shape.url(query).partition("?")[2], views, tenants)


async def _list_views(
    console: ConsoleContext, caller: AuthenticatedCaller, shape: ListShape, query: ListQuery
) -> list[ListedView]:
    read, store = console.services.get(StoreExecutor), console.runtime.store.saved_views
    views = await read(store.list_views, shape.page, caller.name, visible_tenants(caller, None))
    listed = []
    for view in views:
        # Columns and filters of an older program may be gone: what is left of the view counts.
        kept = shape.clean_query((name, value) for name, values in view.query.items() for value in values)
        listed.append(ListedView(view, shape.url(kept), kept == query, _may_change(caller, view)))
    return listed


async def _sharing_tenants(console: ConsoleContext, caller: AuthenticatedCaller) -> list[str]:
    if SCOPE_ADMIN not in caller.scopes:
        return []
    known = [tenant for tenant in await console.activity.known_tenants() if caller.may_see(tenant)]
    own = [tenant for tenant in caller.tenants if tenant != "*"]
    return sorted({*known[:MAX_SHARING_TENANTS], *own})


def _may_change(caller: AuthenticatedCaller, view: SavedView) -> bool:
    if view.tenant is None:
        return view.owner == caller.name
    return SCOPE_ADMIN in caller.scopes and caller.may_see(view.tenant)


async def save_view(
    console: ConsoleContext,
    caller: AuthenticatedCaller,
    shape: ListShape,
    name: str,
    query: ListQuery,
    *,
    tenant: str | None,
) -> SavedView:
    """Save a view, in the place of one of that name.

    Args:
        name: what it is called.
        query: what it shows, of `ListShape.read_query`.
        tenant: with whose readers it is shared; None = it is the person's own.

    Raises:
        InsufficientScope: the person may not see the list, or not share.
        TenantNotAllowed: the person is not bound to the tenant.
        ProblemError: 409, there are too many; 422, it has no name.
    """
    caller.require(shape.scope)
    if tenant is not None:
        caller.require(SCOPE_ADMIN)
        caller.require_tenant(tenant)
    runtime = console.runtime
    view = SavedView(runtime.new_id(), shape.page, _name_of(name), query, caller.name, tenant, runtime.now_ms())
    if not await console.services.get(StoreExecutor).write(runtime.store.saved_views.save, view):
        whose = "You have" if tenant is None else "This tenant has"
        detail = f"{whose} {MAX_VIEWS} saved views, and may have no more. Remove one first."
        raise ProblemError(ProblemDetails(409, "too_many_views", "Too many views", detail))
    return view


async def find_changeable_view(
    console: ConsoleContext, caller: AuthenticatedCaller, view_id: str
) -> tuple[SavedView, ListShape]:
    """A view that the person may rename and remove, and its list.

    Raises:
        InsufficientScope: it is shared, and the person is no administrator; or may not see its list.
        ProblemError: 404, there is none such for this person.
    """
    read, store = console.services.get(StoreExecutor), console.runtime.store.saved_views
    view = await read(store.find, view_id, caller.name, visible_tenants(caller, None))
    shape = None if view is None else SHAPES.get(view.page)
    if view is None or shape is None:
        detail = "Nobody has it any more, or it is not yours to see."
        raise ProblemError(ProblemDetails(404, "not_found", "There is no such view", detail))
    caller.require(shape.scope)
    if not _may_change(caller, view):
        caller.require(SCOPE_ADMIN)
    return view, shape


async def rename_view(console: ConsoleContext, view: SavedView, name: str) -> None:
    """Give a view another name. Raises ProblemError: 409, another one there has it; 422, it is no name."""
    runtime, given = console.runtime, _name_of(name)
    rename = runtime.store.saved_views.rename
    if not await console.services.get(StoreExecutor).write(rename, view, given, runtime.now_ms()):
        detail = f"There is another view {given} on that page. Rename or remove it first."
        raise ProblemError(ProblemDetails(409, "name_taken", "The name is taken", detail))


async def remove_view(console: ConsoleContext, view: SavedView) -> None:
    """Remove a view."""
    await console.services.get(StoreExecutor).write(console.runtime.store.saved_views.delete, view)


def _name_of(text: str) -> str:
    name = printable_line(text)
    if not name or len(name) > MAX_NAME_LENGTH:
        raise invalid_value_error("name", f"a view has a name of 1 to {MAX_NAME_LENGTH} characters")
    return name
