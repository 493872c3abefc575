"""Tables of the store, and the types of their columns."""

from __future__ import annotations

from collections.abc import Collection
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator

from ..records.agents import AgentEdge, AgentName, AgentRow
from ..records.cases import Case, CaseAgent, CaseEntry
from ..records.commits import OutboxRow
from ..records.containment import Actuation, Intervention
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.erasures import Erasure
from ..records.feedback import Feedback, FeedbackPreview, FeedbackStep
from ..records.models import ModelHistoryEntry, ModelSwitch, ModelVersion, PeerGroupDay
from ..records.security_events import EventStream, SecurityEvent

NUL, MARK = "\0", "\1"


def escape_nul(text: str) -> str:
    r"""Escape U+0000, which PostgreSQL rejects. No two texts become one, and their order and prefixes stay.

    >>> escape_nul("a\0b\1c")
    'a\x010b\x011c'
    """
    return text.replace(MARK, MARK + "1").replace(NUL, MARK + "0") if NUL in text or MARK in text else text


def unescape_nul(text: str) -> str:
    r"""Invert `escape_nul`.

    >>> unescape_nul(escape_nul("a\0b\1c")) == "a\0b\1c"
    True
    """
    return text.replace(MARK + "0", NUL).replace(MARK + "1", MARK) if MARK in text else text


class EscapedText(TypeDecorator[str]):
    """Text that PostgreSQL stores without U+0000 and with collation "C", since others order by language. Never NULL."""

    impl = Text
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(collation="C")

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return the plain function, because it is called for every value."""
        return escape_nul

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        return unescape_nul


TEXT = Text().with_variant(EscapedText(), "postgresql")
"""SQLite keeps U+0000 and orders byte by byte by default."""


# `migrate.py` adds what these tables declare to a database of an earlier version; a column that is added to a released
# table needs a default. Times are UTC milliseconds. Agent keys are unsigned 64-bit numbers, stored as signed ones since
# databases have no unsigned type. State blobs come after the columns of lists, so readers of lists never touch overflow
# pages.

METADATA = MetaData()


class BytesDefault(ColumnElement[bytes]):
    """Default of a column of bytes, since SQLite would store a text default as text."""

    inherit_cache = True

    def __init__(self, value: bytes) -> None:
        self.value = value


@compiles(BytesDefault, "sqlite")
def _in_sqlite(element: BytesDefault, *_: Any, **__: Any) -> str:
    return f"x'{element.value.hex()}'"


@compiles(BytesDefault, "postgresql")
def _in_postgresql(element: BytesDefault, *_: Any, **__: Any) -> str:
    return f"'{element.value.decode()}'::bytea"


ROW_ID = BigInteger().with_variant(Integer(), "sqlite")
"""In SQLite only a column of the type INTEGER is the row id, which increments automatically."""

AGENT_NAME_COLUMNS = ("tenant", "issuer", "agent_id")
"""Columns of an agent's name, which never changes (its key is a hash of it)."""

_SHORT_INTEGERS: dict[str, Any] = {
    **dict.fromkeys(("level", "previous_level", "peak"), SmallInteger),
    **dict.fromkeys(("partition", "day", "agents", "decisions", "revision", "ordinal", "sequence", "rounds"), Integer),
}
"""Types of members with whole numbers of fewer than 64 bits."""


def text_column(name: str, default: str | None = None) -> Column[str]:
    return Column(name, TEXT, nullable=False, server_default=default)


def integer_column(name: str, default: str | None = None) -> Column[int]:
    """Return a column for a whole number of 64 bits: a time, a count, a key."""
    return Column(name, BigInteger, nullable=False, server_default=default)


def partial_index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


def struct_table(
    struct: type[msgspec.Struct],
    name: str,
    *more: SchemaItem,
    key: Collection[str],
    unique: str = "",
    agent_key: str = "agent_key",
    without: Collection[str] = (),
    defaults: bool = False,
    **options_of_table: Any,
) -> Table:
    """Return a table with a column for each member of a struct, in order; `codec.RowCodec` converts between the two.

    A member of type `AgentName` has four columns, its key and its names. Other types than numbers, texts and bytes are
    stored as JSON.
    """
    columns: list[Column[Any]] = []
    for member in stored_members(struct):
        types = {member.name: member.column_type}
        if member.type is AgentName:
            types = {agent_key: BigInteger} | dict.fromkeys(AGENT_NAME_COLUMNS, TEXT)
        default: Any = None
        if defaults and member.default is not msgspec.NODEFAULT:
            default = BytesDefault(member.default) if isinstance(member.default, bytes) else str(member.default)
        for at, kind in {} if member.name in without else types.items():
            options: dict[str, Any] = {"primary_key": at in key, "unique": at == unique, "server_default": default}
            columns.append(Column(at, kind, nullable=False, autoincrement=False, **options))
    return Table(name, METADATA, *columns, *more, **options_of_table)


class StoredMember(NamedTuple):
    """A member of a struct that is stored; *type* is without annotations, *default* may be `msgspec.NODEFAULT`."""

    name: str
    type: Any
    default: Any
    column_type: Any


def stored_members(struct: type[msgspec.Struct]) -> list[StoredMember]:
    members = []
    for field in msgspec.structs.fields(struct):
        kind = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        column_type: Any = {bool: SmallInteger, float: Float(53), int: BigInteger}.get(kind, LargeBinary)
        if _is_text(kind):
            column_type = TEXT
        elif kind is int and field.name in _SHORT_INTEGERS:
            column_type = _SHORT_INTEGERS[field.name]
        members.append(StoredMember(field.name, kind, field.default, column_type))
    return members


def _is_text(kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return all(map(_is_text, get_args(kind)))
    return kind is str or get_origin(kind) is Literal


# Tables of the pipeline: positions, event ids for the duplicate window, agents, decisions and chains, dead letters.

META = Table("meta", METADATA, Column("key", TEXT, primary_key=True), text_column("value"))

COUNTERS = Table("counters", METADATA, Column("name", TEXT, primary_key=True), integer_column("value"))

POSITIONS = Table(
    "positions",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("epoch"),
    integer_column("offset"),
    integer_column("published", "0"),
)

EVENT_IDS = Table(
    "event_ids",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    integer_column("end_offset"),
    Column("hashes", LargeBinary, nullable=False),
)

AGENTS = struct_table(
    AgentRow,
    "agents",
    Column("partition", Integer, nullable=False, server_default="0"),
    integer_column("version_epoch", "0"),
    integer_column("version_offset", "0"),
    Index("ix_agents_name", "tenant", "agent_id", "issuer", unique=True),
    Index("ix_agents_id", "agent_id"),
    Index("ix_agents_partition", "partition", "key"),
    Index("ix_agents_level", "level", "tenant", "agent_id", "issuer"),
    # Most agents are never due, and would be most of a full index.
    partial_index("ix_agents_due", "partition", "due_ms", "key", where="due_ms > 0"),
    # No row id: keys are hashes, and new agents in their order would touch a page each (measured: three times slower).
    key=("key",),
    agent_key="key",
    defaults=True,
)

DECISIONS = struct_table(
    Decision,
    "decisions",
    # Place in the chain of its partition (scoring/store/decision_chain.py); 0 = written before there was one.
    integer_column("chain_sequence", "0"),
    *(text_column(name, "") for name in ("chain_salt", "chain_content", "chain_previous", "chain_digest")),
    # The erasure that removed or changed the content, and the salted digest of the changed content.
    text_column("erasure_id", ""),
    text_column("redacted", ""),
    Index("ix_decisions_chain", "partition", "chain_sequence"),
    Index("ix_decisions_agent", "agent_key", "decided_ms", "decision_id"),
    Index("ix_decisions_tenant", "tenant", "decided_ms", "decision_id"),
    Index("ix_decisions_time", "decided_ms", "decision_id"),
    Index("ix_decisions_offset", "partition", "offset", "decision_id"),
    # The few decisions that followed from an act of a person.
    partial_index("ix_decisions_release", "decided_ms", "decision_id", where="cause = 'release'"),
    key=("decision_id",),
    postgresql_partition_by="RANGE (decided_ms)",
)

CHAINS = Table(
    "decision_chains",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("sequence"),
    text_column("digest"),
    # Retention has removed decisions up to this one.
    integer_column("anchor_sequence"),
    text_column("anchor_digest"),
)

DEAD_LETTERS = struct_table(
    DeadLetter,
    "dead_letters",
    Index("ix_dead_letters_time", "received_ms", "letter_id"),
    Index("ix_dead_letters_replayed", "replayed_ms", "received_ms"),
    Index("ix_dead_letters_room", "room", "replayed_ms"),
    key=("letter_id",),
    defaults=True,
)


# Tables of delivery: the outbox, deliveries of its rows to each target, targets that were stopped.

OUTBOX = struct_table(
    OutboxRow,
    "outbox",
    Column("seq", ROW_ID, primary_key=True),
    Column("routed_ms", BigInteger, nullable=False, server_default="0"),
    # When security event tokens were derived from it; 0 = not yet, or no transmitter exists.
    integer_column("derived_ms", "0"),
    Index("ix_outbox_routed", "routed_ms", "seq"),
    Index("ix_outbox_derived", "derived_ms", "seq"),
    key=(),
    unique="key",
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("seq", ROW_ID, ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("target", TEXT, primary_key=True),
    text_column("status"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    integer_column("queued_ms"),
    integer_column("next_attempt_ms"),
    text_column("last_error", ""),
    Column("delivered_ms", BigInteger, nullable=False, server_default="0"),
    Column("suppressed_before", Integer, nullable=False, server_default="0"),
    integer_column("agent_key"),
    text_column("group"),
    # The case that the alert belongs to; "" = none.
    text_column("case_id", ""),
    Index("ix_deliveries_due", "target", "status", "next_attempt_ms"),
    Index("ix_deliveries_status", "status", "queued_ms"),
    Index("ix_deliveries_cooldown", "target", "agent_key", "group", "seq"),
    Index("ix_deliveries_case", "case_id", "target", "group", "seq"),
)

TARGET_STOPS = Table(
    "target_stops",
    METADATA,
    Column("name", TEXT, primary_key=True),
    text_column("fingerprint"),
    integer_column("stopped_ms"),
    text_column("reason"),
)


# Tables of cases: rises that belong together, their agents, ties, decisions and entries.

CASES = struct_table(
    Case,
    "cases",
    Index("ix_cases_time", "updated_ms", "case_id"),
    Index("ix_cases_opened", "opened_ms"),
    Index("ix_cases_status", "status", "updated_ms", "case_id"),
    key=("case_id",),
)

CASE_AGENTS = struct_table(
    CaseAgent, "case_agents", Index("ix_case_agents_agent", "agent_key"), key=("case_id", "agent_key")
)

CASE_TIES = Table(
    "case_ties",
    METADATA,
    # Digest of tenant, kind and value, which may be too long for an index of PostgreSQL.
    Column("digest", TEXT, primary_key=True),
    Column("case_id", TEXT, primary_key=True),
    Column("agent_key", BigInteger, primary_key=True, autoincrement=False),
    text_column("tenant"),
    text_column("kind"),
    text_column("value"),
    integer_column("last_ms"),
    Index("ix_case_ties_case", "case_id"),
)

CASE_DECISIONS = Table(
    "case_decisions",
    METADATA,
    Column("decision_id", TEXT, primary_key=True),
    text_column("case_id"),
    integer_column("agent_key"),
    text_column("tenant"),
    integer_column("decided_ms"),
    Index("ix_case_decisions_case", "case_id", "decided_ms"),
)

CASE_ENTRIES = struct_table(CaseEntry, "case_entries", text_column("tenant"), key=("case_id", "sequence"))


# Tables of containment: interventions of people, actuations, edges between agents.

INTERVENTIONS = struct_table(
    Intervention,
    "interventions",
    Index("ix_interventions_updated", "updated_ms"),
    Index("ix_interventions_open", "status", "expires_ms"),
    Index("ix_interventions_agent", "agent_key", "kind", "status"),
    Index("ix_interventions_time", "asked_ms", "intervention_id"),
    key=("intervention_id",),
)

ACTUATIONS = struct_table(
    Actuation,
    "actuations",
    Index("ix_actuations_agent", "agent_key"),
    Index("ix_actuations_time", "updated_ms", "target", "agent_key"),
    key=("target", "agent_key"),
)

EDGES = struct_table(
    AgentEdge,
    "edges",
    # A hash of the names: five names of 2,048 characters are too long for an index of PostgreSQL.
    Column("edge_id", TEXT, primary_key=True),
    integer_column("source_key"),
    integer_column("target_key"),
    Index("ix_edges_source", "source_key", "kind"),
    Index("ix_edges_target", "target_key", "kind"),
    key=(),
)


# Tables of feedback: judgements of people, their steps, the rules of partitions, previews.

FEEDBACK = struct_table(
    Feedback,
    "feedback",
    text_column("resource"),
    # Features and resource as JSON, where null and "" differ.
    Column("scope", LargeBinary, nullable=False),
    Index("ix_feedback_time", "created_ms", "feedback_id"),
    Index("ix_feedback_status", "status", "expires_ms"),
    Index("ix_feedback_agent", "agent_key", "created_ms"),
    Index("ix_feedback_decision", "decision_id"),
    key=("feedback_id",),
    without=("features", "resource"),
)

FEEDBACK_STEPS = struct_table(FeedbackStep, "feedback_steps", key=("feedback_id", "action"))

FEEDBACK_HOLDINGS = Table(
    "feedback_holdings",
    METADATA,
    Column("rule_id", TEXT, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("epoch"),
    integer_column("from_offset"),
    integer_column("until_offset"),
    integer_column("matched"),
    integer_column("last_ms"),
    integer_column("expires_ms"),
    Column("rule", LargeBinary, nullable=False),
    Index("ix_feedback_holdings_partition", "partition", "until_offset"),
)

FEEDBACK_PREVIEWS = struct_table(
    FeedbackPreview,
    "feedback_previews",
    Index("ix_feedback_previews_time", "created_ms", "preview_id"),
    key=("preview_id",),
)


# Tables of models: versions, their history, switches, days of peer groups in shadow.

MODEL_VERSIONS = struct_table(
    ModelVersion,
    "model_versions",
    Index("ix_model_versions_status", "status"),
    Index("ix_model_versions_time", "created_ms", "version"),
    key=("version",),
)

MODEL_HISTORY = struct_table(
    ModelHistoryEntry, "model_history", Index("ix_model_history_time", "at_ms", "entry_id"), key=("entry_id",)
)

MODEL_SWITCHES = struct_table(ModelSwitch, "model_switches", key=("partition", "epoch", "offset"))

MODEL_DAYS = struct_table(
    PeerGroupDay, "model_days", Index("ix_model_days_day", "day"), key=("version", "day", "tenant", "agent_type")
)


# Tables of privacy: erasures, and marks of agents that must not come back.

ERASURES = struct_table(Erasure, "erasures", Index("ix_erasures_time", "asked_ms", "erasure_id"), key=("erasure_id",))

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    # Keyed hash of an agent that must not come back from a model's history.
    Column("mark", TEXT, primary_key=True),
    integer_column("at_ms"),
)


# Tables of shared signals: streams of receivers, the subjects they named, security event tokens that wait.

EVENT_STREAMS = struct_table(
    EventStream, "event_streams", Index("ix_event_streams_owner", "owner", "created_ms"), key=("stream_id",)
)

STREAM_SUBJECTS = Table(
    "stream_subjects",
    METADATA,
    Column("stream_id", TEXT, ForeignKey("event_streams.stream_id", ondelete="CASCADE"), primary_key=True),
    # Digest of the subject's JSON.
    Column("digest", TEXT, primary_key=True),
    text_column("owner"),
    Column("wanted", SmallInteger, nullable=False),
    integer_column("changed_ms"),
    Column("subject", LargeBinary, nullable=False),
    # 1: it may match other digests, so it is read for each change.
    Column("compound", SmallInteger, nullable=False, server_default="1"),
    Index("ix_stream_subjects_compound", "stream_id", "compound"),
)

SECURITY_EVENTS = struct_table(
    SecurityEvent,
    "security_events",
    Column("seq", ROW_ID, primary_key=True),
    ForeignKeyConstraint(["stream_id"], ["event_streams.stream_id"], ondelete="CASCADE"),
    Index("ix_security_events_jti", "stream_id", "jti", unique=True),
    Index("ix_security_events_order", "stream_id", "seq"),
    key=(),
)

RECEIVED_SIGNALS = Table(
    "received_signals",
    METADATA,
    Column("transmitter", TEXT, primary_key=True),
    # Digest of the SET's `jti`.
    Column("digest", TEXT, primary_key=True),
    integer_column("received_ms"),
    Index("ix_received_signals_time", "received_ms"),
)

SIGNAL_STATEMENTS = Table(
    "signal_statements",
    METADATA,
    Column("transmitter", TEXT, primary_key=True),
    # Digest of a statement and its subject, as evidence.
    Column("statement", TEXT, primary_key=True),
    # Of the SET that counts as this evidence, as in `received_signals`.
    text_column("digest"),
    integer_column("said_ms"),
    Index("ix_signal_statements_time", "said_ms"),
)
