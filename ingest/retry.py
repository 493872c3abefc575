"""Retries while a service does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .errors import Unavailable

Answer = TypeVar("Answer")


def retry_until_available(call: Callable[[], Answer], on_unavailable: Callable[[Unavailable], None]) -> Answer:
    """Result of *call*, which is repeated while a service does not answer."""
    while True:
        try:
            return call()
        except Unavailable as error:
            on_unavailable(error)


def give_up(error: Unavailable) -> None:
    """Retry never: the `on_unavailable` of code that leaves the failure to its callers."""
    raise error
