"""Many values in several statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

MAX_IN_LIST = 500
"""Keys per IN list: few enough for every database, many enough that the statement is not the cost."""


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """*items* in lists of at most *size*."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
