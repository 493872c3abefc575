"""The pipeline's side: state, decisions, what leaves and how far it got, in one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, case, delete, func, literal_column, select, tuple_, update

from ...ingest.errors import Fenced
from ..records.agents import AgentRow, DueAgent
from ..records.commits import Commit, Position
from ..records.dead_letters import DeadLetter
from . import codec
from .containment_store import write_edges
from .database import Database
from .decision_chain import SALT_BYTES
from .decision_store import link_decisions
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .erasure_store import write_forget_positions
from .feedback_store import write_partition_rules
from .interface import CommitResult
from .model_store import write_switches
from .outbox_store import INSERT_COUNTER, INSERT_OUTBOX
from .sql_schema import AGENTS, COUNTERS, DEAD_LETTERS, DECISIONS, META, POSITIONS

DROPPED_DEAD_LETTERS = "dead_letters.dropped"
DEFAULT_MAX_DEAD_LETTERS = 100_000

_INSERT_DECISION = insert_or_skip(DECISIONS)
_INSERT_DEAD_LETTER = insert_or_skip(DEAD_LETTERS, "letter_id")
_UPSERT_META = upsert(META, ("key",))
_DEFAULT_META = insert_or_skip(META, "key")
_ADD_PARTITION = insert_or_skip(POSITIONS, "partition")

_PUBLISHED = bindparam("new_published", type_=BigInteger)
_ADVANCE = (
    update(POSITIONS)
    .where(
        POSITIONS.c.partition == bindparam("p"),
        POSITIONS.c.epoch == bindparam("expected_epoch"),
        POSITIONS.c.offset == bindparam("expected_offset"),
    )
    .values(
        offset=bindparam("new_offset"),
        published=case((POSITIONS.c.published < _PUBLISHED, _PUBLISHED), else_=POSITIONS.c.published),
    )
)
_IS_DUE = AGENTS.c.due_ms > literal_column("0")  # spelt as in the partial index, or a planner may not recognise it


class State(Database):
    """Part of the store that the pipeline writes."""

    max_dead_letters: int = DEFAULT_MAX_DEAD_LETTERS
    new_salt: Callable[[], bytes] = partial(secrets.token_bytes, SALT_BYTES)
    """Makes the salt of a decision's digest."""

    def position(self, partition: int) -> Position:
        with self.read() as connection:
            return _read_position(connection, partition)

    def claim(self, partition: int) -> Position:
        with self.write() as connection:
            connection.execute(
                _ADD_PARTITION.for_connection(connection), {"partition": partition, "epoch": 0, "offset": 0}
            )
            mine = POSITIONS.c.partition == partition
            connection.execute(update(POSITIONS).where(mine).values(epoch=POSITIONS.c.epoch + 1))
            return _read_position(connection, partition)

    def commit(self, commit: Commit) -> CommitResult:
        (result,) = self.commit_all([commit])
        if isinstance(result, Fenced):
            raise result
        return result

    def commit_all(self, commits: Sequence[Commit]) -> list[CommitResult | Fenced]:
        for commit in commits:
            _validate_commit(commit)
        # Rows are made before the transaction starts: the locks are held for the writing alone.
        decisions = [[codec.decision_params(one) for one in commit.decisions] for commit in commits]
        outbox = [[codec.outbox_params(row) for row in commit.outbox] for commit in commits]
        with self.write() as connection:
            refused = _advance_positions(connection, commits)
            taken = [number for number, error in enumerate(refused) if error is None]
            if forgotten := [codec.to_signed(key) for number in taken for key in commits[number].removed_agents]:
                connection.execute(delete(AGENTS).where(AGENTS.c.key.in_(forgotten)))
            for number in taken:
                if commits[number].agents:
                    self._dialect.write_agents(connection, commits[number].agents, commits[number].position)
            made = [row for number in taken for row in decisions[number]]
            if made and (linked := link_decisions(connection, made, self.new_salt)):
                connection.execute(_INSERT_DECISION.for_connection(connection), linked)
            if rows := [row for number in taken for row in outbox[number]]:
                connection.execute(INSERT_OUTBOX.for_connection(connection), rows)
            if edges := [edge for number in taken for edge in commits[number].edges]:
                write_edges(connection, edges)
            if holdings := [one for number in taken for one in commits[number].feedback_rules]:
                write_partition_rules(connection, holdings)
            write_forget_positions(connection, [commits[number] for number in taken])
            if switches := [one for number in taken for one in commits[number].switches]:
                write_switches(connection, switches)
            return [
                CommitResult(self._write_dead_letters(connection, commit.dead_letters) if commit.dead_letters else 0)
                if error is None
                else error
                for commit, error in zip(commits, refused, strict=True)
            ]

    def _write_dead_letters(self, connection: Connection, letters: list[DeadLetter]) -> int:
        """Keep as many of *letters* as there is room for; count the others and return their number."""
        known: set[str] = set()
        for part in chunked(letters, MAX_IN_LIST):  # a flood of bad records must not exceed what one statement may hold
            ids = [letter.letter_id for letter in part]
            known.update(connection.scalars(select(DEAD_LETTERS.c.letter_id).where(DEAD_LETTERS.c.letter_id.in_(ids))))
        fresh = [letter for letter in letters if letter.letter_id not in known]
        kept = fresh[: self._dead_letter_capacity(connection, len(fresh))]
        if kept:
            connection.execute(
                _INSERT_DEAD_LETTER.for_connection(connection), [codec.dead_letter_params(letter) for letter in kept]
            )
        dropped = len(fresh) - len(kept)
        if dropped:
            connection.execute(INSERT_COUNTER.for_connection(connection), {"name": DROPPED_DEAD_LETTERS, "value": 0})
            mine = COUNTERS.c.name == DROPPED_DEAD_LETTERS
            connection.execute(update(COUNTERS).where(mine).values(value=COUNTERS.c.value + dropped))
        return dropped

    def _dead_letter_capacity(self, connection: Connection, wanted: int) -> int:
        """Rows that fit. Letters that were replayed make way, oldest first: nothing is lost with them."""
        stored = connection.execute(select(func.count()).select_from(DEAD_LETTERS)).scalar_one()
        missing = stored + wanted - self.max_dead_letters
        if missing > 0:
            done = (
                select(DEAD_LETTERS.c.letter_id)
                .where(DEAD_LETTERS.c.replayed_ms > 0)
                .order_by(DEAD_LETTERS.c.replayed_ms)
                .limit(missing)
            )
            stored -= connection.execute(delete(DEAD_LETTERS).where(DEAD_LETTERS.c.letter_id.in_(done))).rowcount
        return max(0, self.max_dead_letters - stored)

    def agents(self, keys: Collection[int]) -> dict[int, AgentRow]:
        with self.read() as connection:
            return {agent.name.key: agent for agent in self._dialect.read_agents(connection, keys)}

    def due(self, before_ms: int, limit: int, after: DueAgent | None = None, partition: int = 0) -> list[DueAgent]:
        query = select(AGENTS.c.due_ms, AGENTS.c.key)
        query = query.where(AGENTS.c.partition == partition, _IS_DUE, AGENTS.c.due_ms <= before_ms)
        if after is not None:
            query = query.where(tuple_(AGENTS.c.due_ms, AGENTS.c.key) > (after.due_ms, codec.to_signed(after.key)))
        query = query.order_by(AGENTS.c.due_ms, AGENTS.c.key).limit(limit)
        with self.read() as connection:
            return [DueAgent(due_ms, codec.to_unsigned(key)) for due_ms, key in connection.execute(query)]

    def get_meta(self, key: str) -> str | None:
        with self.read() as connection:
            return _read_meta(connection, key)

    def set_meta(self, key: str, value: str) -> None:
        with self.write() as connection:
            connection.execute(_UPSERT_META.for_connection(connection), {"key": key, "value": value})

    def default_meta(self, key: str, value: str) -> str:
        with self.write() as connection:
            connection.execute(_DEFAULT_META.for_connection(connection), {"key": key, "value": value})
            stored = _read_meta(connection, key)
        return value if stored is None else stored


def _validate_commit(commit: Commit) -> None:
    old, new = commit.expected, commit.position
    if (new.partition, new.epoch) != (old.partition, old.epoch) or new.offset < old.offset:
        raise ValueError(f"a commit moves the offset of its own partition and epoch forward, not {old} to {new}")
    if commit.published > old.offset:
        raise ValueError(f"offset {commit.published} cannot be published before it is committed, after {old}")


def _advance_positions(connection: Connection, commits: Sequence[Commit]) -> list[Fenced | None]:
    """Move the positions, those of lower partitions first, so that two who do it never wait in a circle."""
    refused: list[Fenced | None] = [None] * len(commits)
    for number in sorted(range(len(commits)), key=lambda number: commits[number].position.partition):
        refused[number] = _advance_position(connection, commits[number])
    return refused


def _advance_position(connection: Connection, commit: Commit) -> Fenced | None:
    expected = commit.expected
    params: dict[str, Any] = {
        "p": expected.partition,
        "expected_epoch": expected.epoch,
        "expected_offset": expected.offset,
        "new_offset": commit.position.offset,
        "new_published": commit.published,
    }
    if connection.execute(_ADVANCE, params).rowcount == 1:
        return None
    stored = _read_position(connection, expected.partition)
    return Fenced(f"the position of partition {expected.partition} is {stored}, not {expected}")


def _read_position(connection: Connection, partition: int) -> Position:
    query = select(POSITIONS.c.epoch, POSITIONS.c.offset).where(POSITIONS.c.partition == partition)
    row = connection.execute(query).one_or_none()
    return Position(partition, 0, 0) if row is None else Position(partition, row[0], row[1])


def _read_meta(connection: Connection, key: str) -> str | None:
    return connection.execute(select(META.c.value).where(META.c.key == key)).scalar_one_or_none()
