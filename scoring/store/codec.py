"""Conversion between rows of the tables and the values of `scoring/records`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Table, and_

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject

from ..records.agents import AgentEdge, AgentName, AgentRow, AgentSummary, VersionedAgent
from ..records.commits import OutboxRow, Position
from ..records.dead_letters import DeadLetter, StoredDeadLetter
from ..records.decisions import Decision, RiskReason
from . import sql_schema

if TYPE_CHECKING:
    from sqlalchemy import Row

    # SQLAlchemy 2.1 types a row by all of its columns; ours are looked at by name.
    AnyRow = Row[*tuple[Any, ...]]

AGENT_NAME_COLUMNS = ("tenant", "issuer", "agent_id")
"""Columns of an agent's name, which never changes (its key is a hash of it)."""
_HALF = 1 << 63
_FULL = 1 << 64
_encode = msgspec.json.Encoder().encode
_reasons_decoder = msgspec.json.Decoder(tuple[RiskReason, ...])
_floats_decoder = msgspec.json.Decoder(dict[str, float])
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_SUMMARY_FIELDS = tuple(f for f in AgentSummary.__struct_fields__ if f != "name")
_STATE_FIELDS = ("features", "risk", "state_version")
_DECISION_PLAIN = tuple(
    f for f in Decision.__struct_fields__ if f not in ("agent", "reasons", "feature_vector", "evidence")
)
_plain_of_decision = attrgetter(*_DECISION_PLAIN)
_AGENT_COLUMN_NAMES = tuple(column.name for column in sql_schema.AGENTS.columns)
DEAD_LETTER_FIELDS = DeadLetter.__struct_fields__

SUMMARY_COLUMNS = tuple(sql_schema.AGENTS.c[name] for name in ("key", *AGENT_NAME_COLUMNS, *_SUMMARY_FIELDS))
VERSION_COLUMNS = (sql_schema.AGENTS.c.version_epoch, sql_schema.AGENTS.c.version_offset)
AGENT_COLUMNS = (*SUMMARY_COLUMNS, *(sql_schema.AGENTS.c[name] for name in _STATE_FIELDS))


def to_signed(key: int) -> int:
    """The signed 64-bit number with the bits of the unsigned *key*.

    >>> to_signed(2**64 - 1), to_signed(7)
    (-1, 7)
    """
    return key - _FULL if key >= _HALF else key


def to_unsigned(number: int) -> int:
    """Inverse of `to_signed`.

    >>> to_unsigned(-1)
    18446744073709551615
    """
    return number + _FULL if number < 0 else number


def key_range(after: int | None, last: int | None) -> tuple[int, int]:
    """Least and greatest signed number of the keys behind *after* up to *last* (unsigned; None = no bound).

    >>> key_range(None, 2**64 - 1), key_range(2**64 - 1, None), key_range(2**63 - 1, None)
    ((-9223372036854775808, -1), (0, 9223372036854775807), (0, -1))
    """
    least = -_HALF if after is None else to_signed(after) + 1
    greatest = _HALF - 1 if last is None else to_signed(last)
    return (least, greatest) if least < _HALF else (0, -1)  # behind the greatest is none, and no database has it


def to_agent_name(values: Mapping[Any, Any]) -> AgentName:
    """Name of the agent that a row with `agent_key` is about."""
    return AgentName(to_unsigned(values["agent_key"]), *(values[name] for name in AGENT_NAME_COLUMNS))


def agent_values(row: AgentRow, version: Position) -> tuple[Any, ...]:
    """Values of a row of `agents` in the order of its columns; spelt out: it runs for every agent of every commit."""
    name = row.name
    return (
        to_signed(name.key),
        name.tenant,
        name.issuer,
        name.agent_id,
        row.agent_type,
        row.level,
        row.risk_score,
        row.confidence,
        row.anomaly_score,
        row.first_seen_ms,
        row.last_seen_ms,
        row.evaluated_ms,
        row.due_ms,
        row.events,
        row.decision_id,
        row.counterfactual,
        row.state_version,
        row.reasons,
        row.features,
        row.risk,
        version.partition,
        version.epoch,
        version.offset,
        row.concern,
        row.indicators,
        row.announced_paths,
        row.capabilities,
    )


def agent_params(row: AgentRow, version: Position) -> dict[str, Any]:
    """The same by name: parameters of an upsert into `agents`."""
    return dict(zip(_AGENT_COLUMN_NAMES, agent_values(row, version), strict=True))


def agent_of(subject: ErasureSubject, identities: IdentityHasher) -> AgentName:
    """The agent that is to be erased."""
    return AgentName(identities.agent_key(*subject.agent_identity), *subject.agent_identity)


def is_about(table: Table, agent: AgentName) -> ColumnElement[bool]:
    """Condition that a row of *table* is about *agent*: by its key, which an index has, and by its full name."""
    names = (table.c[name] == getattr(agent, name) for name in AGENT_NAME_COLUMNS)
    return and_(table.c.agent_key == to_signed(agent.key), *names)


def to_summary(row: Sequence[Any]) -> AgentSummary:
    """Summary from `SUMMARY_COLUMNS`."""
    key, tenant, issuer, agent_id, *rest = row
    return AgentSummary(AgentName(to_unsigned(key), tenant, issuer, agent_id), *rest)


def to_versioned(row: AnyRow) -> VersionedAgent:
    """Summary and version from `VERSION_COLUMNS` and `SUMMARY_COLUMNS`."""
    epoch, offset, *summary = row
    return VersionedAgent(to_summary(summary), epoch, offset)


def to_agent(row: Sequence[Any]) -> AgentRow:
    """Agent from `AGENT_COLUMNS`."""
    key, tenant, issuer, agent_id, *summary, concern, indicators, paths, declared, features, risk, state_version = row
    rest = [*summary, features, risk, state_version, concern, indicators, paths, declared]
    return AgentRow(AgentName(to_unsigned(key), tenant, issuer, agent_id), *rest)


def decision_params(decision: Decision) -> dict[str, Any]:
    """Parameters of an insert into `decisions`. Raises ValueError on a feature that is not finite: JSON has no such
    number, and the record could not be replayed."""
    vector, agent = decision.feature_vector, decision.agent
    if not all(map(math.isfinite, vector.values())):
        name, value = next((name, value) for name, value in vector.items() if not math.isfinite(value))
        raise ValueError(f"decision {decision.decision_id}: feature {name!r} is {value}")
    params: dict[str, Any] = dict(zip(_DECISION_PLAIN, _plain_of_decision(decision), strict=True))
    params.update(
        agent_key=to_signed(agent.key),
        tenant=agent.tenant,
        issuer=agent.issuer,
        agent_id=agent.agent_id,
        reasons=_encode(decision.reasons),
        feature_vector=_encode(vector),
        evidence=_encode(decision.evidence),
    )
    return params


def to_decision(row: AnyRow) -> Decision:
    """Decision from a full row of `decisions`."""
    values = row._mapping
    return Decision(
        agent=to_agent_name(values),
        reasons=_reasons_decoder.decode(values["reasons"]),
        feature_vector=_floats_decoder.decode(values["feature_vector"]),
        evidence=_object_decoder.decode(values["evidence"]),
        **{name: values[name] for name in _DECISION_PLAIN},
    )


def dead_letter_params(letter: DeadLetter) -> dict[str, Any]:
    """Parameters of an insert into `dead_letters`."""
    return {name: getattr(letter, name) for name in DEAD_LETTER_FIELDS} | {"replayed_ms": 0}


def to_dead_letter(row: AnyRow) -> StoredDeadLetter:
    """Dead letter from a full row of `dead_letters`."""
    values = row._mapping
    return StoredDeadLetter(DeadLetter(**{name: values[name] for name in DEAD_LETTER_FIELDS}), values["replayed_ms"])


def outbox_params(row: OutboxRow) -> dict[str, Any]:
    """Parameters of an insert into `outbox`."""
    params = msgspec.structs.asdict(row)
    return params | {"agent_key": to_signed(row.agent_key), "routed_ms": 0}


def to_outbox(row: AnyRow) -> OutboxRow:
    """Outbox row from a row that has its columns."""
    values = row._mapping
    fields = {name: values[name] for name in OutboxRow.__struct_fields__}
    return OutboxRow(**fields | {"agent_key": to_unsigned(values["agent_key"])})


def to_edge(row: AnyRow, **changed: Any) -> AgentEdge:
    """Edge from a full row of `edges`."""
    return AgentEdge(**{name: row._mapping[name] for name in AgentEdge.__struct_fields__} | changed)
