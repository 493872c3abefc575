"""Pages of a list, and whose rows a caller may see."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

import msgspec

MAX_PAGE = 500
T = TypeVar("T")
Tenants = Collection[str] | None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and where the next ones are."""

    items: list[T]
    next_cursor: str | None  # None = these were the last ones
