"""Security event tokens (SETs) that were taken from other transmitters: each counts once, over restarts too.

Nothing of a SET is kept but digests: of its identifier, and of what it said of whom. Times are UTC milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, select

from trustwatch.ingest.timestamps import DAY_MS

from .database import Database
from .dialects.statements import insert_or_skip, insert_or_succeed
from .sql_schema import RECEIVED_SIGNALS, SIGNAL_STATEMENTS

_INSERT = insert_or_skip(RECEIVED_SIGNALS, "transmitter", "digest")
_CLAIM = insert_or_succeed(SIGNAL_STATEMENTS, ("transmitter", "statement"), "said_ms", DAY_MS)


class SignalStatement(NamedTuple):
    """A statement of a SET about a subject, as evidence.

    Attributes:
        digest: of the SET's `jti`, see `signal_digest`.
        statement: digest of its statement and subject.
    """

    digest: str
    statement: str


def signal_digest(*parts: str) -> str:
    """Digest of texts, for the columns of the tables."""
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

    def claim(self, transmitter: str, statements: Sequence[SignalStatement], at_ms: int) -> set[str]:
        """Digests of the SETs that count as evidence: of those that say the same within a day, the first alone.

        Whoever claims at the same time, here or in another process, one SET gets each statement; one that is claimed
        for again, after a crash, keeps it.
        """
        # In one order, so that no two processes wait for each other; of equal ones the first to come stays first.
        ordered = sorted(statements, key=lambda statement: statement.statement)
        rows = [{"transmitter": transmitter, "said_ms": at_ms, **statement._asdict()} for statement in ordered]
        said = SIGNAL_STATEMENTS.c.statement.in_({statement.statement for statement in ordered})
        digests = select(SIGNAL_STATEMENTS.c.digest).where(SIGNAL_STATEMENTS.c.transmitter == transmitter, said)
        with self._database.write() as connection:
            _CLAIM.execute(connection, rows)
            return {statement.digest for statement in ordered} & set(connection.scalars(digests))

    def add(self, transmitter: str, digests: Collection[str], at_ms: int) -> None:
        """Write that SETs were taken; those that another process took meanwhile stay as they are."""
        rows = [{"transmitter": transmitter, "digest": digest, "received_ms": at_ms} for digest in digests]
        if rows:
            with self._database.write() as connection:
                _INSERT.execute(connection, rows)

    def forget(self, before_ms: int, said_before_ms: int) -> int:
        """Remove what was taken before *before_ms*, and what was said before *said_before_ms*."""
        old = delete(RECEIVED_SIGNALS).where(RECEIVED_SIGNALS.c.received_ms < before_ms)
        with self._database.write() as connection:
            connection.execute(delete(SIGNAL_STATEMENTS).where(SIGNAL_STATEMENTS.c.said_ms < said_before_ms))
            return connection.execute(old).rowcount

    def count_taken(self) -> Mapping[str, int]:
        """Number of SETs that are remembered, by transmitter."""
        counts = select(RECEIVED_SIGNALS.c.transmitter, func.count()).group_by(RECEIVED_SIGNALS.c.transmitter)
        with self._database.read() as connection:
            return {transmitter: count for transmitter, count in connection.execute(counts)}
