"""The store on an SQL database: aggregates over one database, and the commits of the pipeline, which span them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sqlalchemy import BigInteger, Connection, Engine, bindparam, case, delete, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from trustwatch.ingest.errors import ConfigError, Fenced
from trustwatch.ingest.identities import IdentityHasher

from ..records.commits import Commit
from . import codec
from .act_store import ActStore
from .agent_store import AgentStore
from .case_store import CaseStore
from .containment_store import ActuationStore, EdgeStore, InterventionStore, write_edges
from .database import Database, translate_errors
from .decision_chain import SALT_BYTES, link_decisions
from .decision_store import DecisionStore
from .dialects import dialect_of, open_engine
from .dialects.statements import insert_rows_or_skip
from .erasure_store import ErasureStore, write_forget_positions
from .feedback_store import FeedbackStore, write_partition_rules
from .identity_keys import adopt_identity_key, check_identity_key, correct_agent_keys, has_identity_key
from .migrate import SCHEMA_REVISION, migrate, read_revision, refuse_newer
from .model_store import ModelStore, write_switches
from .outbox_store import OutboxStore, insert_outbox_rows
from .partition_store import (
    DeadLetterStore,
    EventIdStore,
    MetadataStore,
    PartitionStore,
    read_position,
    write_dead_letters,
    write_event_ids,
)
from .retention import Retention
from .security_event_store import ReceivedSignalStore, SecurityEventStore
from .sql_schema import AGENTS, DECISIONS, POSITIONS
from .subject_store import SubjectStore

DEFAULT_MAX_DEAD_LETTERS = 100_000
_INSERT_DECISIONS = insert_rows_or_skip(DECISIONS)
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


class SqlStore:
    """The store on SQLite or PostgreSQL, with one attribute for each subject.

    Each of their methods may raise Unavailable (nothing was written, the same call may succeed later) and blocks: an
    event loop calls it in a thread. Several threads may use one store. *tenants* are those that the caller may see;
    None = all. Floats must be finite. Pages have at most `MAX_PAGE` items.
    """

    def __init__(self, engine: Engine, max_dead_letters: int = DEFAULT_MAX_DEAD_LETTERS) -> None:
        self.database = Database(engine)
        self.max_dead_letters = max_dead_letters
        self._new_salt: Callable[[], bytes] = partial(secrets.token_bytes, SALT_BYTES)
        self.agents = AgentStore(self.database)
        self.decisions = DecisionStore(self.database)
        self.dead_letters = DeadLetterStore(self.database)
        self.partitions = PartitionStore(self.database)
        self.event_ids = EventIdStore(self.database)
        self.outbox = OutboxStore(self.database)
        self.cases = CaseStore(self.database)
        self.interventions = InterventionStore(self.database)
        self.actuations = ActuationStore(self.database)
        self.edges = EdgeStore(self.database)
        self.feedback = FeedbackStore(self.database)
        self.models = ModelStore(self.database)
        self.erasures = ErasureStore(self.database)
        self.acts = ActStore(self.database)
        self.subjects = SubjectStore(self.database, self._new_salt)
        self.security_events = SecurityEventStore(self.database)
        self.received_signals = ReceivedSignalStore(self.database)
        self.metadata = MetadataStore(self.database)
        self.retention = Retention(self.database)

    def commit(self, commit: Commit) -> int:
        """Write all of *commit* in one transaction, or nothing.

        Returns the number of dead letters that were counted but not stored, because their tenant has
        `max_dead_letters`.
        Raises Fenced unless the stored position equals `commit.expected`. After Unavailable the outcome is unknown:
        read `partitions.position` and continue from there.
        """
        (result,) = self.commit_all([commit])
        if isinstance(result, Fenced):
            raise result
        return result

    def commit_all(self, commits: Sequence[Commit]) -> list[int | Fenced]:
        """Write *commits*, each for a different partition, in one transaction; return a result for each, in order.

        The result is as of `commit`. A commit whose position is not the expected one is skipped, and its result is
        `Fenced` (not raised). All others are written, or nothing. For Unavailable see `commit`.
        """
        for commit in commits:
            old, new = commit.expected, commit.position
            if (new.partition, new.epoch) != (old.partition, old.epoch) or new.offset < old.offset:
                raise ValueError(f"a commit moves the offset of its partition and epoch forward, not {old} to {new}")
            if commit.published > old.offset:
                raise ValueError(f"offset {commit.published} cannot be published before it is committed, after {old}")
        try:
            return self._commit_all(commits)
        except IntegrityError:  # an agent's name has another key
            if not correct_agent_keys(self.database):
                raise
            return self._commit_all(commits)

    def _commit_all(self, commits: Sequence[Commit]) -> list[int | Fenced]:
        # Decisions are encoded before the transaction starts, so that the locks are held for the writing only.
        decision_rows = [[codec.decision_params(decision) for decision in commit.decisions] for commit in commits]
        with self.database.write() as connection:
            refusals = _advance_positions(connection, commits)
            accepted = [number for number, refusal in enumerate(refusals) if refusal is None]
            self._write_agents(connection, [commits[number] for number in accepted])
            rows = [row for number in accepted for row in decision_rows[number]]
            if rows and (linked := link_decisions(connection, rows, self._new_salt)):
                _INSERT_DECISIONS.execute(connection, linked)
            self._write_records(connection, [commits[number] for number in accepted])
            return [
                write_dead_letters(connection, commit.dead_letters, self.max_dead_letters)
                if refusal is None
                else refusal
                for commit, refusal in zip(commits, refusals, strict=True)
            ]

    def _write_agents(self, connection: Connection, commits: Sequence[Commit]) -> None:
        if removed := [codec.to_signed(key) for commit in commits for key in commit.removed_agents]:
            connection.execute(delete(AGENTS).where(AGENTS.c.key.in_(removed)))
        for commit in commits:
            if commit.agents:
                self.database.dialect.write_agents(connection, commit.agents, commit.position)

    def _write_records(self, connection: Connection, commits: Sequence[Commit]) -> None:
        """Write everything but agents and decisions, in the order in which tables are locked."""
        write_event_ids(connection, commits)
        insert_outbox_rows(connection, [row for commit in commits for row in commit.outbox])
        write_edges(connection, [edge for commit in commits for edge in commit.edges], self.identities)
        write_partition_rules(connection, [rule for commit in commits for rule in commit.feedback_rules])
        write_forget_positions(connection, commits)
        write_switches(connection, [switch for commit in commits for switch in commit.switches])

    @property
    def identities(self) -> IdentityHasher:
        """The hasher that makes the keys of agents in the tables."""
        return self.database.identities

    def has_identity_key(self) -> bool:
        """Return whether the keys of agents are made with an identity key; those of 0.1 are not."""
        return has_identity_key(self.database)

    def read_with_identities(self, identities: IdentityHasher) -> None:
        """Read with an identity key from now on. Raises ConfigError if the database has another one."""
        check_identity_key(self.database, identities)
        self.database.identities = identities

    def use_identities(self, identities: IdentityHasher, *, renew: bool = False) -> int:
        """Use an identity key from now on; see `identity_keys.adopt_identity_key`."""
        changed = adopt_identity_key(self.database, identities, renew=renew)
        self.database.identities = identities
        return changed

    def schema_revision(self) -> str | None:
        """Return the revision of the tables; None if there are none. Raises Unavailable."""
        with translate_errors(), self.database.engine.connect() as connection:
            return read_revision(connection)

    def close(self) -> None:
        self.database.close()


def _advance_positions(connection: Connection, commits: Sequence[Commit]) -> list[Fenced | None]:
    """Move the positions, lower partitions first, so that two writers never deadlock; return the refusals."""
    refusals: list[Fenced | None] = [None] * len(commits)
    for number in sorted(range(len(commits)), key=lambda number: commits[number].position.partition):
        commit, expected = commits[number], commits[number].expected
        params = {
            "p": expected.partition,
            "expected_epoch": expected.epoch,
            "expected_offset": expected.offset,
            "new_offset": commit.position.offset,
            "new_published": commit.published,
        }
        if connection.execute(_ADVANCE, params).rowcount != 1:
            stored = read_position(connection, expected.partition)
            refusals[number] = Fenced(f"the position of partition {expected.partition} is {stored}, not {expected}")
    return refusals


def open_store(
    url: str,
    max_dead_letters: int = DEFAULT_MAX_DEAD_LETTERS,
    *,
    password: str | None = None,
    checkpoints: Path | None = None,
) -> SqlStore:
    """Open the database at *url*, and create or migrate its tables.

    Raises ConfigError (not a known URL, or a checkpoint is missing), StoreTooNew (written by a newer version) or
    Unavailable (locked, disk full, no server, connection refused).
    """
    engine = open_engine(url, password)
    try:
        with translate_errors():
            migrate(engine, checkpoints)
            dialect_of(engine).guide_planner(engine)
    except ProgrammingError as error:
        engine.dispose()
        if getattr(error.orig, "sqlstate", "") is None:  # libpq refuses, without a server
            raise ConfigError(f"store.url: {error.orig}") from None
        raise
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine, max_dead_letters)


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite file at *path*.

    >>> sqlite_url(Path("/var/lib/trustwatch/store.db"))
    'sqlite:////var/lib/trustwatch/store.db'
    """
    return f"sqlite:///{path.absolute()}"


def open_reading_store(url: str, *, password: str | None = None) -> SqlStore:
    """Open the database at *url* for reading while a service runs; nothing is migrated, and writes fail.

    Raises ConfigError (no such file, not a store, or of an older version), StoreTooNew (written by a newer version) or
    Unavailable (no server, connection refused).
    """
    store = SqlStore(open_engine(url, password, reading=True))
    with ExitStack() as on_error:
        on_error.callback(store.close)
        try:
            with store.database.read() as connection:
                current = read_revision(connection)
        except DBAPIError as error:
            raise ConfigError(f"the store cannot be read: {str(error.orig).strip()}") from None
        refuse_newer(current)
        if current is None:
            raise ConfigError("the store has no tables of ours yet: start the service once")
        if current != SCHEMA_REVISION:
            raise ConfigError(
                f"the store is at revision {current!r}, which an older Trustwatch wrote: start the service of this "
                "version once, it brings the tables up to date"
            )
        on_error.pop_all()
    return store
