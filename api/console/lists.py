"""What an address asks of a list: filters, columns and order. The address is the view: a bookmark keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import Request

from ..http.problems import invalid_value_error

MAX_FILTER_LENGTH: Final = 2048


class ListColumns(NamedTuple):
    """Columns of a list."""

    headings: Mapping[str, str]  # by the name of the column, in order
    leading: str  # the column that is always shown: it leads to what a row is about
    shown: Sequence[str]  # names of those that the address asks for (`column`, repeated; none = all)
    order: str  # the column that orders the rows (`sort`), `-` before it if the last come first; "" = as they come

    def links(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of links to other rows of the list: its filters, columns and order."""
        columns = self.shown if len(self.shown) < len(self.headings) else ()
        return {**filters, "column": columns, "sort": self.order}


def list_columns(request: Request, headings: Mapping[str, str], leading: str) -> ListColumns:
    """Columns and order that *request* asks for."""
    asked = headings.keys() & set(request.query_params.getlist("column"))
    shown = [name for name in headings if not asked or name in asked or name == leading]
    order = request.query_params.get("sort", "")
    return ListColumns(headings, leading, shown, order if order.removeprefix("-") in headings else "")


def text_filters(*names: str, **defaults: str) -> Callable[[Request], dict[str, str]]:
    """A dependency: the filters of a list as its address says them, "" = not given."""

    def asked(request: Request) -> dict[str, str]:
        given = {name: request.query_params.get(name, defaults.get(name, "")).strip() for name in (*defaults, *names)}
        for name, value in given.items():
            if len(value) > MAX_FILTER_LENGTH:
                raise invalid_value_error(name, f"has more than {MAX_FILTER_LENGTH} characters")
        return given

    return asked
