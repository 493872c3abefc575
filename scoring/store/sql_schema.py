"""Tables of the store, and the types of their columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
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
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator

NUL, MARK = "\0", "\1"


def escape_nul(text: str) -> str:
    r"""*text* without U+0000, which PostgreSQL refuses. No two texts become one, and their order and prefixes stay.

    >>> escape_nul("a\0b\1c")
    'a\x010b\x011c'
    """
    return text.replace(MARK, MARK + "1").replace(NUL, MARK + "0") if NUL in text or MARK in text else text


def unescape_nul(text: str) -> str:
    r"""Inverse of `escape_nul`.

    >>> unescape_nul(escape_nul("a\0b\1c")) == "a\0b\1c"
    True
    """
    return text.replace(MARK + "0", NUL).replace(MARK + "1", MARK) if MARK in text else text


class EscapedText(TypeDecorator[str]):
    """Text on PostgreSQL: no U+0000 in it, and collation "C", since others order by language. Never NULL."""

    impl = Text
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(collation="C")

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ARG002
        """Called for every value, so with nothing of SQLAlchemy's around it."""
        return escape_nul

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        """As `bind_processor`, with nothing of SQLAlchemy's around it."""
        return unescape_nul


TEXT = Text().with_variant(EscapedText(), "postgresql")
"""SQLite keeps U+0000 and orders byte by byte by itself."""


# Tables of the store. The migrations build the same ones; a test compares the two.
#
# Times are UTC milliseconds. Agent keys are unsigned 64-bit numbers stored as signed ones, the only kind databases
# have. State blobs stand behind what lists show, so that a reader of those columns never touches their overflow pages;
# columns that a migration adds can only stand behind them.


METADATA = MetaData()


class EmptyList(ColumnElement[bytes]):
    """An empty JSON list in bytes: what stands in rows of before a column was added."""

    inherit_cache = True


@compiles(EmptyList, "sqlite")
def _in_sqlite(*_: Any, **__: Any) -> str:
    return "x'5b5d'"


@compiles(EmptyList, "postgresql")
def _in_postgresql(*_: Any, **__: Any) -> str:
    return "'[]'::bytea"


class NoBytes(ColumnElement[bytes]):
    """No bytes at all, for the same rows; as a text they would be one in SQLite."""

    inherit_cache = True


@compiles(NoBytes, "sqlite")
def _nothing_in_sqlite(*_: Any, **__: Any) -> str:
    return "x''"


@compiles(NoBytes, "postgresql")
def _nothing_in_postgresql(*_: Any, **__: Any) -> str:
    return "''::bytea"


ROW_ID = BigInteger().with_variant(Integer(), "sqlite")
"""Only a column whose type is spelt INTEGER is SQLite's own row id and counts up by itself."""


def text_column(name: str, default: str | None = None) -> Column[str]:
    """A text."""
    return Column(name, TEXT, nullable=False, server_default=default)


def integer_column(name: str, default: str | None = None) -> Column[int]:
    """A whole number of 64 bits: a time, a count, a key."""
    return Column(name, BigInteger, nullable=False, server_default=default)


def float_column(name: str) -> Column[float]:
    """A float of 64 bits."""
    return Column(name, Float(53), nullable=False)


# Tables of the pipeline: positions, event ids for the duplicate window, checkpoints, agents, decisions and chains, dead
# letters.


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

CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    text_column("name"),
    text_column("digest"),
    integer_column("agents"),
    integer_column("content_bytes"),
)

SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    integer_column("generation"),
    integer_column("agents"),
    integer_column("content_bytes"),
)

AGENTS = Table(
    "agents",
    METADATA,
    # No row id: keys are hashes, and new agents in their order would touch a page each (measured: three times slower).
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    Column("level", SmallInteger, nullable=False),
    float_column("risk_score"),
    float_column("confidence"),
    float_column("anomaly_score"),
    integer_column("first_seen_ms"),
    integer_column("last_seen_ms"),
    integer_column("evaluated_ms"),
    integer_column("due_ms"),
    integer_column("events"),
    text_column("decision_id"),
    text_column("counterfactual"),
    text_column("state_version"),
    Column("reasons", LargeBinary, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("risk", LargeBinary, nullable=False),
    Column("partition", Integer, nullable=False, server_default="0"),
    integer_column("version_epoch", "0"),
    integer_column("version_offset", "0"),
    text_column("concern", ""),
    Column("indicators", LargeBinary, nullable=False, server_default=EmptyList()),
    Column("announced_paths", LargeBinary, nullable=False, server_default=NoBytes()),
    Column("capabilities", LargeBinary, nullable=False, server_default=NoBytes()),
    Index("ix_agents_name", "tenant", "agent_id", "issuer", unique=True),
    Index("ix_agents_id", "agent_id"),
    Index("ix_agents_partition", "partition", "key"),
    Index("ix_agents_level", "level", "tenant", "agent_id", "issuer"),
    # Most agents are never due, and those would make up most of a full index.
    Index(
        "ix_agents_due",
        "partition",
        "due_ms",
        "key",
        sqlite_where=text("due_ms > 0"),
        postgresql_where=text("due_ms > 0"),
    ),
)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", TEXT, primary_key=True),
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    integer_column("decided_ms"),
    text_column("event_id"),
    integer_column("event_time_ms"),
    Column("previous_level", SmallInteger, nullable=False),
    Column("level", SmallInteger, nullable=False),
    float_column("risk_score"),
    float_column("confidence"),
    float_column("anomaly_score"),
    float_column("p_value"),
    text_column("counterfactual"),
    text_column("model_version"),
    text_column("baseline_version"),
    text_column("policy_version"),
    text_column("mode"),
    text_column("cause"),
    Column("partition", Integer, nullable=False),
    integer_column("offset"),
    Column("reasons", LargeBinary, nullable=False),
    Column("feature_vector", LargeBinary, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    # Place in the chain of its partition (scoring/store/decision_chain.py); 0 = written before there was one.
    integer_column("chain_sequence", "0"),
    *(text_column(name, "") for name in ("chain_salt", "chain_content", "chain_previous", "chain_digest")),
    # The erasure that removed or changed the content, and the salted digest of what it left.
    text_column("erasure_id", ""),
    text_column("redacted", ""),
    Index("ix_decisions_chain", "partition", "chain_sequence"),
    Index("ix_decisions_agent", "agent_key", "decided_ms", "decision_id"),
    Index("ix_decisions_tenant", "tenant", "decided_ms", "decision_id"),
    Index("ix_decisions_time", "decided_ms", "decision_id"),
    Index("ix_decisions_offset", "partition", "offset", "decision_id"),
    # Decisions that came of an act of a person: few among many.
    Index(
        "ix_decisions_release",
        "decided_ms",
        "decision_id",
        sqlite_where=text("cause = 'release'"),
        postgresql_where=text("cause = 'release'"),
    ),
)

CHAINS = Table(
    "decision_chains",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("sequence"),
    text_column("digest"),
    # Up to here retention has removed decisions.
    integer_column("anchor_sequence"),
    text_column("anchor_digest"),
)

DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    Column("letter_id", TEXT, primary_key=True),
    integer_column("received_ms"),
    text_column("source"),
    text_column("reason"),
    text_column("path"),
    Column("partition", Integer, nullable=False),
    integer_column("offset"),
    Column("replayed_ms", BigInteger, nullable=False, server_default="0"),
    Column("raw", LargeBinary, nullable=False),
    Index("ix_dead_letters_time", "received_ms", "letter_id"),
    Index("ix_dead_letters_replayed", "replayed_ms", "received_ms"),
)


# Tables of delivery: the outbox, deliveries of its rows to each target, targets that were stopped.


OUTBOX = Table(
    "outbox",
    METADATA,
    Column("seq", ROW_ID, primary_key=True),
    Column("key", TEXT, nullable=False, unique=True),
    text_column("kind"),
    text_column("target"),
    text_column("tenant"),
    integer_column("created_ms"),
    integer_column("agent_key"),
    text_column("group"),
    Column("level", SmallInteger, nullable=False),
    Column("routed_ms", BigInteger, nullable=False, server_default="0"),
    Column("payload", LargeBinary, nullable=False),
    # When security event tokens were derived from it; 0 = not yet, or there is no transmitter.
    integer_column("derived_ms", "0"),
    Index("ix_outbox_routed", "routed_ms", "seq"),
    Index("ix_outbox_derived", "derived_ms", "seq"),
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


# Tables of cases: rises that belong together, their agents, what ties these, their decisions, what people did.


CASES = Table(
    "cases",
    METADATA,
    Column("case_id", TEXT, primary_key=True),
    text_column("tenant"),
    text_column("status"),
    text_column("verdict"),
    Column("level", SmallInteger, nullable=False),
    text_column("lead_decision_id"),
    integer_column("opened_ms"),
    integer_column("updated_ms"),
    integer_column("risen_ms"),
    integer_column("acknowledged_ms"),
    integer_column("contained_ms"),
    integer_column("closed_ms"),
    integer_column("held_until_ms"),
    text_column("owner"),
    integer_column("snoozed_until_ms"),
    text_column("merged_into"),
    Column("agents", Integer, nullable=False),
    Column("decisions", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Index("ix_cases_time", "updated_ms", "case_id"),
    Index("ix_cases_opened", "opened_ms"),
    Index("ix_cases_status", "status", "updated_ms", "case_id"),
)

CASE_AGENTS = Table(
    "case_agents",
    METADATA,
    Column("case_id", TEXT, primary_key=True),
    Column("agent_key", BigInteger, primary_key=True, autoincrement=False),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    Column("ordinal", Integer, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("peak", SmallInteger, nullable=False),
    integer_column("joined_ms"),
    integer_column("last_ms"),
    text_column("decision_id"),
    text_column("tie"),
    text_column("tied_by"),
    Index("ix_case_agents_agent", "agent_key"),
)

CASE_TIES = Table(
    "case_ties",
    METADATA,
    # Of tenant, kind and value: those may be longer than what an index of PostgreSQL holds.
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

CASE_ENTRIES = Table(
    "case_entries",
    METADATA,
    Column("case_id", TEXT, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    text_column("tenant"),
    integer_column("at_ms"),
    text_column("by"),
    text_column("action"),
    text_column("note"),
    Column("detail", LargeBinary, nullable=False),
)


# Tables of containment: interventions of people, actuations, ties between agents.


INTERVENTIONS = Table(
    "interventions",
    METADATA,
    Column("intervention_id", TEXT, primary_key=True),
    text_column("kind"),
    text_column("status"),
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    Column("level", SmallInteger, nullable=False),
    text_column("asked_why"),
    text_column("asked_by"),
    integer_column("asked_ms"),
    text_column("decided_by"),
    integer_column("decided_ms"),
    text_column("why"),
    integer_column("expires_ms"),
    integer_column("updated_ms"),
    Column("scopes", LargeBinary, nullable=False),
    Index("ix_interventions_updated", "updated_ms"),
    Index("ix_interventions_open", "status", "expires_ms"),
    Index("ix_interventions_agent", "agent_key", "kind", "status"),
    Index("ix_interventions_time", "asked_ms", "intervention_id"),
)

ACTUATIONS = Table(
    "actuations",
    METADATA,
    Column("target", TEXT, primary_key=True),
    Column("agent_key", BigInteger, primary_key=True, autoincrement=False),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    integer_column("version"),
    text_column("status"),
    integer_column("caused_ms"),
    integer_column("wanted_ms"),
    integer_column("confirmed_ms"),
    integer_column("updated_ms"),
    text_column("error"),
    Column("desired", LargeBinary, nullable=False),
    Column("original", LargeBinary, nullable=False),
    Index("ix_actuations_agent", "agent_key"),
    Index("ix_actuations_time", "updated_ms", "target", "agent_key"),
)

EDGES = Table(
    "edges",
    METADATA,
    # A hash of the names: as a key, five names of 2,048 characters are more than an index of PostgreSQL holds.
    Column("edge_id", TEXT, primary_key=True),
    integer_column("source_key"),
    integer_column("target_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("kind"),
    text_column("source"),
    text_column("target"),
    integer_column("first_ms"),
    integer_column("last_ms"),
    float_column("risk"),
    integer_column("risk_ms"),
    Index("ix_edges_source", "source_key", "kind"),
    Index("ix_edges_target", "target_key", "kind"),
)


# Tables of feedback: judgements of people, step by step, the rules that partitions hold, previews.


FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
    text_column("verdict"),
    text_column("status"),
    text_column("decision_id"),
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    text_column("kind"),
    text_column("resource"),
    text_column("reason"),
    text_column("author"),
    integer_column("created_ms"),
    integer_column("expires_ms"),
    text_column("preview_id"),
    Column("unseen", SmallInteger, nullable=False),
    text_column("event_id"),
    integer_column("event_time_ms"),
    Column("level", SmallInteger, nullable=False),
    integer_column("from_ms"),
    integer_column("until_ms"),
    float_column("withdraw"),
    text_column("revoked_by"),
    integer_column("revoked_ms"),
    text_column("revoked_why"),
    integer_column("updated_ms"),
    Column("scope", LargeBinary, nullable=False),
    Index("ix_feedback_time", "created_ms", "feedback_id"),
    Index("ix_feedback_status", "status", "expires_ms"),
    Index("ix_feedback_agent", "agent_key", "created_ms"),
    Index("ix_feedback_decision", "decision_id"),
)

FEEDBACK_STEPS = Table(
    "feedback_steps",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
    Column("action", TEXT, primary_key=True),
    integer_column("at_ms"),
    text_column("by"),
    text_column("why"),
)

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

FEEDBACK_PREVIEWS = Table(
    "feedback_previews",
    METADATA,
    Column("preview_id", TEXT, primary_key=True),
    text_column("decision_id"),
    text_column("tenant"),
    text_column("author"),
    text_column("draft"),
    text_column("status"),
    float_column("progress"),
    integer_column("created_ms"),
    integer_column("updated_ms"),
    text_column("error"),
    Column("result", LargeBinary, nullable=False),
    Index("ix_feedback_previews_time", "created_ms", "preview_id"),
)


# Tables of models: versions, their history, switches, days of peer groups in shadow.


MODEL_VERSIONS = Table(
    "model_versions",
    METADATA,
    Column("version", TEXT, primary_key=True),
    text_column("status"),
    text_column("digest"),
    integer_column("from_ms"),
    integer_column("to_ms"),
    integer_column("created_ms"),
    integer_column("promoted_ms"),
    integer_column("changed_ms"),
    integer_column("counted_from"),
    Column("trained", LargeBinary, nullable=False),
    Column("figures", LargeBinary, nullable=False),
    Index("ix_model_versions_status", "status"),
    Index("ix_model_versions_time", "created_ms", "version"),
)

MODEL_HISTORY = Table(
    "model_history",
    METADATA,
    Column("entry_id", TEXT, primary_key=True),
    integer_column("at_ms"),
    text_column("version"),
    text_column("act"),
    text_column("by"),
    text_column("why"),
    Column("detail", LargeBinary, nullable=False),
    Index("ix_model_history_time", "at_ms", "entry_id"),
)

MODEL_SWITCHES = Table(
    "model_switches",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    text_column("version"),
    text_column("digest"),
    text_column("installed"),
    integer_column("at_ms"),
)

MODEL_DAYS = Table(
    "model_days",
    METADATA,
    Column("version", TEXT, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tenant", TEXT, primary_key=True),
    Column("agent_type", TEXT, primary_key=True),
    integer_column("events"),
    integer_column("agent_days"),
    Column("alerts", LargeBinary, nullable=False),
    Column("p_values", LargeBinary, nullable=False),
    Column("drift", LargeBinary, nullable=False),
    Index("ix_model_days_day", "day"),
)


# Tables of privacy: erasures, and marks of agents that must not come back.


ERASURES = Table(
    "erasures",
    METADATA,
    Column("erasure_id", TEXT, primary_key=True),
    text_column("kind"),
    text_column("status"),
    text_column("tenant"),
    text_column("issuer"),
    # What is erased: here while the work goes on, empty once it is done.
    text_column("subject"),
    # Salted digest of it, in the words of the proof.
    text_column("subject_salt"),
    text_column("subject_digest"),
    text_column("reason"),
    text_column("asked_by"),
    integer_column("asked_ms"),
    # The record of the log that ended what was known: offset and arrival; -1 = not written yet.
    integer_column("at_offset"),
    integer_column("at_ms"),
    Column("rounds", Integer, nullable=False),
    text_column("error"),
    integer_column("updated_ms"),
    integer_column("done_ms"),
    Column("counts", LargeBinary, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Index("ix_erasures_time", "asked_ms", "erasure_id"),
)

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    # Keyed hash of an agent that must not go on from a model's history.
    Column("mark", TEXT, primary_key=True),
    integer_column("at_ms"),
)


# Tables of shared signals: streams of receivers, the subjects they named, security event tokens that wait.


EVENT_STREAMS = Table(
    "event_streams",
    METADATA,
    Column("stream_id", TEXT, primary_key=True),
    text_column("owner"),
    text_column("audience"),
    integer_column("created_ms"),
    integer_column("updated_ms"),
    text_column("method"),
    text_column("endpoint_url"),
    # Sealed: the key lies outside of the database.
    text_column("authorization"),
    text_column("description"),
    text_column("status"),
    text_column("status_reason"),
    integer_column("failures"),
    integer_column("failing_since_ms"),
    integer_column("next_push_ms"),
    integer_column("verified_ms"),
    Column("events_requested", LargeBinary, nullable=False),
    Index("ix_event_streams_owner", "owner", "created_ms"),
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
    # 1: it can match under another digest than its own, so it is read for each change.
    Column("compound", SmallInteger, nullable=False, server_default="1"),
    Index("ix_stream_subjects_compound", "stream_id", "compound"),
)

SECURITY_EVENTS = Table(
    "security_events",
    METADATA,
    Column("seq", ROW_ID, primary_key=True),
    Column("stream_id", TEXT, ForeignKey("event_streams.stream_id", ondelete="CASCADE"), nullable=False),
    text_column("jti"),
    integer_column("queued_ms"),
    integer_column("agent_key"),
    text_column("tenant"),
    Column("announces_status", SmallInteger, nullable=False),
    Column("claims", LargeBinary, nullable=False),
    Index("ix_security_events_jti", "stream_id", "jti", unique=True),
    Index("ix_security_events_order", "stream_id", "seq"),
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
    # Digest of what was said of whom, as evidence.
    Column("statement", TEXT, primary_key=True),
    # Of the SET that counts as that evidence, as in `received_signals`.
    text_column("digest"),
    integer_column("said_ms"),
    Index("ix_signal_statements_time", "said_ms"),
)
