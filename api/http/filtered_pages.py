"""Lists narrowed by what the store does not narrow by: a bounded look that says how far it went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from trustwatch.scoring.store.database import Page

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGES_READ = 20
"""Pages of the store that are read for one page of a narrowed list."""


class FilteredPage(NamedTuple, Generic[T]):
    """Items that were wanted, where the next ones are, and how many were looked at to find them."""

    items: list[T]
    next_cursor: str | None
    looked_at: int


def read_filtered_page(
    page_at: Callable[[str | None], Page[T]],
    keep: Callable[[T], bool],
    cursor: str | None = None,
    *,
    least_items: int = DEFAULT_PAGE_SIZE,
    most_pages: int = MAX_PAGES_READ,
) -> FilteredPage[T]:
    """Read pages until *least_items* are found, the list ends, or *most_pages* are read.

    Whole pages are used up, so that the cursor of the last one goes on exactly behind what was looked at; there may be
    more items than that, by less than a page. Blocks; raises what *page_at* raises.
    """
    items: list[T] = []
    looked_at = 0
    for _ in range(most_pages):
        page = page_at(cursor)
        looked_at += len(page.items)
        items += filter(keep, page.items)
        cursor = page.next_cursor
        if cursor is None or len(items) >= least_items:
            break
    return FilteredPage(items, cursor, looked_at)
