"""Checkpoints as the database knows them: each is written with the commit whose position it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select

from ..records.commits import Checkpoint, Commit, Position
from .database import Database
from .sql_schema import CHECKPOINTS


class CheckpointStore:
    """Checkpoints that agents' states go on from, beside their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_of(self, partition: int) -> list[Checkpoint]:
        """Checkpoints of a partition, the oldest first: an agent goes on from the last one that it is in."""
        return self._list(select(CHECKPOINTS).where(CHECKPOINTS.c.partition == partition))

    def list_all(self) -> list[Checkpoint]:
        """Checkpoints of all partitions, those of each together, the oldest first."""
        return self._list(select(CHECKPOINTS))

    def _list(self, query: Select[Any]) -> list[Checkpoint]:
        table = CHECKPOINTS.c
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.partition, table.epoch, table.offset)).all()
        return [
            Checkpoint(Position(row.partition, row.epoch, row.offset), row.name, row.digest, row.agents, row[-1])
            for row in rows
        ]

    def partitions(self) -> list[int]:
        """Partitions of which some agents' newest states are in checkpoints, by number."""
        with self._database.read() as connection:
            query = select(CHECKPOINTS.c.partition).distinct().order_by(CHECKPOINTS.c.partition)
            return list(connection.scalars(query))


def write_checkpoints(connection: Connection, commits: Sequence[Commit]) -> None:
    """Remove checkpoints that *commits* end, and add theirs."""
    for commit in commits:
        if commit.ends_checkpoints:
            gone = CHECKPOINTS.c.partition == commit.position.partition
            connection.execute(delete(CHECKPOINTS).where(gone))
        if (made := commit.checkpoint) is not None:
            row = made._asdict()
            at = row.pop("position")
            row |= {"partition": at.partition, "epoch": at.epoch, "offset": at.offset}
            connection.execute(insert(CHECKPOINTS), row)
