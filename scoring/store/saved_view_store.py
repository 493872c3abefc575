"""Views of the console's lists: what a person saved, and what is shared with the readers of a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import ColumnElement, Table, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from .database import Database, Tenants, visible
from .dialects.statements import upsert
from .sql_schema import SAVED_VIEWS, SHARED_VIEWS

if TYPE_CHECKING:
    from .codec import AnyRow

CONSOLE_NAME_PREFIX: Final = "console:"
"""Prefix of persons' names in records: no person can be taken for a client of the settings, nor for a source."""

MAX_VIEWS: Final = 50
"""Views of one person, and of one tenant, over all pages."""
MAX_LISTED: Final = 200
"""Shared views in one list: of those who see many tenants."""


class SavedView(msgspec.Struct, frozen=True):
    """A view of a list.

    Attributes:
        page: the list: `agents`, `decisions`, `cases` or `acts`.
        name: what it is called; one of each on a page of its holder.
        query: parameters of the page's address.
        owner: who saved it; of a shared one who shared it last.
        tenant: with whose readers it is shared; None = it is the owner's own.
        changed_ms: UTC milliseconds.
    """

    view_id: str
    page: str
    name: str
    query: dict[str, list[str]]
    owner: str
    tenant: str | None
    changed_ms: int


_UPSERTS: Final = {
    SAVED_VIEWS: upsert(SAVED_VIEWS, ("owner", "page", "name")),
    SHARED_VIEWS: upsert(SHARED_VIEWS, ("tenant", "page", "name")),
}
_query_decoder = msgspec.json.Decoder(dict[str, list[str]])


class SavedViewStore:
    """Views by page. An own view is its owner's alone; a shared one of whoever may see its tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_views(self, page: str, owner: str, tenants: Tenants) -> list[SavedView]:
        """Own views of *owner* and those shared with *tenants*, each by name."""
        own = select(SAVED_VIEWS).where(SAVED_VIEWS.c.owner == owner, SAVED_VIEWS.c.page == page)
        shared = visible(select(SHARED_VIEWS).where(SHARED_VIEWS.c.page == page), SHARED_VIEWS.c.tenant, tenants)
        with self._database.read() as connection:
            mine = connection.execute(own.order_by(SAVED_VIEWS.c.name, SAVED_VIEWS.c.view_id)).all()
            order = (SHARED_VIEWS.c.name, SHARED_VIEWS.c.tenant, SHARED_VIEWS.c.view_id)
            others = connection.execute(shared.order_by(*order).limit(MAX_LISTED)).all()
        return [_to_view(row) for row in (*mine, *others)]

    def find(self, view_id: str, owner: str, tenants: Tenants) -> SavedView | None:
        """A view of *owner*, or one shared with *tenants*; None = there is none such."""
        own = select(SAVED_VIEWS).where(SAVED_VIEWS.c.view_id == view_id, SAVED_VIEWS.c.owner == owner)
        shared = select(SHARED_VIEWS).where(SHARED_VIEWS.c.view_id == view_id)
        return self._database.fetch_one(own, _to_view) or self._database.fetch_one(
            visible(shared, SHARED_VIEWS.c.tenant, tenants), _to_view
        )

    def save(self, view: SavedView) -> bool:
        """Write a view, in the place of one that its holder has under that name on that page.

        False = the holder has `MAX_VIEWS` already, and nothing is written.
        """
        table, holder = _place_of(view)
        others = and_(holder, or_(table.c.page != view.page, table.c.name != view.name))
        with self._database.write() as connection:
            if (connection.scalar(select(func.count()).select_from(table).where(others)) or 0) >= MAX_VIEWS:
                return False
            # One that another process saves at this moment is overwritten, too.
            connection.execute(_UPSERTS[table].for_connection(connection), _params(view))
        return True

    def rename(self, view: SavedView, name: str, now_ms: int) -> bool:
        """Give a view another name; False = its holder has one of that name there, and nothing is written."""
        table, _ = _place_of(view)
        mine = update(table).where(table.c.view_id == view.view_id)
        try:
            with self._database.write() as connection:
                connection.execute(mine.values(name=name, changed_ms=now_ms))
        except IntegrityError:  # the index holds each name once
            return False
        return True

    def delete(self, view: SavedView) -> None:
        """Remove a view."""
        table, _ = _place_of(view)
        with self._database.write() as connection:
            connection.execute(delete(table).where(table.c.view_id == view.view_id))


def _place_of(view: SavedView) -> tuple[Table, ColumnElement[bool]]:
    """The table that a view stands in, and the condition of all that its holder has there."""
    if view.tenant is None:
        return SAVED_VIEWS, SAVED_VIEWS.c.owner == view.owner
    return SHARED_VIEWS, SHARED_VIEWS.c.tenant == view.tenant


def _params(view: SavedView) -> dict[str, object]:
    held = {"owner": view.owner} if view.tenant is None else {"tenant": view.tenant, "shared_by": view.owner}
    plain = {name: getattr(view, name) for name in ("view_id", "page", "name", "changed_ms")}
    return {**plain, **held, "query": msgspec.json.encode(view.query)}


def _to_view(row: AnyRow) -> SavedView:
    values = row._mapping
    return SavedView(
        values["view_id"],
        values["page"],
        values["name"],
        _query_decoder.decode(values["query"]),
        values["shared_by"] if "tenant" in values else values["owner"],
        values.get("tenant"),
        values["changed_ms"],
    )
