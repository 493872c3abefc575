"""Lists in pages, and whose rows a caller may see: alike in every part of the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import tuple_

from . import codec
from .base import MAX_PAGE, Page
from .database import Database

if TYPE_CHECKING:
    from .database import AnyRow, AnySelect

T = TypeVar("T")


class Paged(Database):
    """Base of the parts of the store that hand out lists."""

    def newest(
        self,
        query: AnySelect,
        order: Sequence[Any],
        limit: int,
        cursor: str | None,
        make: Callable[[AnyRow], T],
        place: Any = tuple[int, str],
    ) -> Page[T]:
        """One page, from the end of *order* on.

        Args:
            query: what is listed; without an order of its own.
            order: columns that together differ in every row, a time first.
            limit: items, made to be in 1 … MAX_PAGE.
            cursor: where the page before ended; None = this is the first.
            make: the item in a row.
            place: type of the values of *order*.

        Raises:
            BadCursor: not one of this list.
        """
        if cursor is not None:
            query = query.where(tuple_(*order) < codec.from_cursor(cursor, place))
        return self.page(query.order_by(*(column.desc() for column in order)), order, limit, make)

    def page(self, query: AnySelect, order: Sequence[Any], limit: int, make: Callable[[AnyRow], T]) -> Page[T]:
        """The first rows of a query that is in *order* and begins behind the cursor."""
        limit = min(max(limit, 1), MAX_PAGE)
        with self.read() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()  # one more says whether there are more
        cursor = None
        if len(rows) > limit:
            cursor = codec.to_cursor([rows[limit - 1]._mapping[column.name] for column in order])
        return Page([make(row) for row in rows[:limit]], cursor)


def visible(query: AnySelect, column: Any, allowed: Collection[str] | None) -> AnySelect:
    """Of *query* the rows whose *column* is allowed; None = all are."""
    return query if allowed is None else query.where(column.in_(sorted(allowed)))
