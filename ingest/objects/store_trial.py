"""A small object is written, read, listed and deleted at start, so that wrong settings show there and not later."""

from __future__ import annotations

import contextlib
import uuid
from typing import Final

from ..errors import ObjectMissing, Unavailable
from .protocols import ObjectStore

TRIAL_FOLDER: Final = "check"
"""First part of the names of such objects."""


class StoreRefused(Unavailable):
    """The store answers, and refuses: rights, keys, a bucket that does not exist, a full disk."""


def try_store(store: ObjectStore, shown: str) -> None:
    """Put, get, list and delete an object of a name of its own.

    Args:
        shown: the store in messages.

    Raises:
        StoreRefused: it refuses one of these, or does not hold what it took.
        Unavailable: it does not answer.
    """
    name = f"{TRIAL_FOLDER}/{uuid.uuid4().hex}"
    content = name.encode()
    store.put(name, content)
    try:
        _expect(store.get(name) == content, shown, "an object that was written is read otherwise")
        _expect(name in store.list_names(f"{TRIAL_FOLDER}/"), shown, "an object that was written is not listed")
        store.delete([name])
        _expect(name not in store.list_names(name), shown, "an object that was deleted is still listed")
    except ObjectMissing:
        raise StoreRefused(f"{shown}: an object that was written is not there") from None
    except Unavailable:
        with contextlib.suppress(Unavailable):
            store.delete([name])
        raise


def _expect(fact: bool, shown: str, otherwise: str) -> None:
    if not fact:
        raise StoreRefused(f"{shown}: {otherwise}")
