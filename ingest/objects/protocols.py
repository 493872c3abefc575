"""The interface of object stores: one for a folder and for the clouds' buckets (`tests/contract/`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class ObjectStore(Protocol):
    """Named pieces of bytes. A reader beside a writer gets all of an object or none, of several writers one wins.

    Calls block, and may come from several threads. Names hold a-z, 0-9, ".", "_", "-" and "/" between parts, no part
    begins with "." (`object_names`); any other is a ValueError.

    A cloud may carry out a call later than it was given up here: after Unavailable an object may still be written or
    removed, even after a later call. Whoever can not bear that gives each content a name of its own.
    """

    def put(self, name: str, content: bytes) -> None:
        """Write an object, or put another content in its place; it is durable when this returns.

        Raises:
            Unavailable: it was not written, or nobody said so in time. The same call may succeed later.
        """

    def get(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            ObjectMissing: the store answers, and has none of that name.
            Unavailable: nobody can tell now.
        """

    def list_names(self, prefix: str) -> list[str]:
        """Names that begin with *prefix*, in order; "" = all. Whatever `put` returned for is there.

        The text counts: "a/1" lists `a/10`, too, "a/1/" lists what is in that folder.

        Raises:
            Unavailable: nobody can tell now.
        """

    def delete(self, names: Collection[str]) -> None:
        """Remove objects; one that is not there is no error.

        Raises:
            Unavailable: some may be left; the same call may succeed later.
        """

    def count_unfinished(self, older_than_s: float) -> int:
        """Number of pieces that no name shows: a crash of a writer left them, or one is at work. Of that age or more.

        Raises:
            Unavailable: nobody can tell now.
        """

    def remove_unfinished(self, older_than_s: float) -> None:
        """Remove such pieces of that age, in seconds, or more; a writer that was slower writes its object again.

        Raises:
            Unavailable: some may be left; the same call may succeed later.
        """

    def check(self) -> None:
        """Write, read, list and delete a small object, at start.

        Raises:
            ConfigError: the store refuses: no such bucket, keys, rights, a full disk.
            Unavailable: nobody answers: the store is down, or its address is wrong.
        """
