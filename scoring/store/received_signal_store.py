"""Which security event tokens (SETs) of other transmitters were taken: each counts once, over restarts too.

Nothing of a SET is kept but digests: of its identifier, and of what it said of whom. Times are UTC milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, select

from .database import Database
from .dialects.statements import insert_or_skip
from .sql_schema import RECEIVED_SIGNALS

_INSERT = insert_or_skip(RECEIVED_SIGNALS, "transmitter", "digest")


class TakenSignal(NamedTuple):
    """A SET that was taken.

    Attributes:
        digest: of its `jti`, see `signal_digest`.
        statement: digest of what it said of whom, where that was believed as evidence; "" = it was not.
    """

    digest: str
    statement: str = ""


def signal_digest(*parts: str) -> str:
    """Digest of texts, for the columns of the table."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class ReceivedSignalStore:
    """SETs that were taken, by transmitter. No transmitter learns anything of another's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_taken(self, transmitter: str, digests: Collection[str]) -> set[str]:
        """Those of *digests* that were taken already."""
        taken = RECEIVED_SIGNALS.c.transmitter == transmitter, RECEIVED_SIGNALS.c.digest.in_(sorted(digests))
        with self._database.read() as connection:
            return set(connection.scalars(select(RECEIVED_SIGNALS.c.digest).where(*taken)))

    def find_said(self, transmitter: str, statements: Collection[str], since_ms: int) -> set[str]:
        """Those of *statements* that *transmitter* made, and that were believed, at *since_ms* or later."""
        said = (
            RECEIVED_SIGNALS.c.transmitter == transmitter,
            RECEIVED_SIGNALS.c.statement.in_(sorted(statements)),
            RECEIVED_SIGNALS.c.received_ms >= since_ms,
        )
        with self._database.read() as connection:
            return set(connection.scalars(select(RECEIVED_SIGNALS.c.statement).where(*said)))

    def add(self, transmitter: str, taken: Sequence[TakenSignal], at_ms: int) -> None:
        """Write that SETs were taken; those that another process took meanwhile stay as they are."""
        rows = [{"transmitter": transmitter, "received_ms": at_ms, **signal._asdict()} for signal in taken]
        if rows:
            with self._database.write() as connection:
                connection.execute(_INSERT.for_connection(connection), rows)

    def forget(self, before_ms: int) -> int:
        """Remove what was taken before *before_ms*; returns how many rows that were."""
        with self._database.write() as connection:
            old = delete(RECEIVED_SIGNALS).where(RECEIVED_SIGNALS.c.received_ms < before_ms)
            return connection.execute(old).rowcount

    def count_taken(self) -> Mapping[str, int]:
        """Number of SETs that are remembered, by transmitter."""
        counts = select(RECEIVED_SIGNALS.c.transmitter, func.count()).group_by(RECEIVED_SIGNALS.c.transmitter)
        with self._database.read() as connection:
            return {transmitter: count for transmitter, count in connection.execute(counts)}
