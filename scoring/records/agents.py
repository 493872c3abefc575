"""Plain values about agents, their risk and its indicators. Times are UTC milliseconds since 1970.

Indicators are properties of the events that raised an agent's risk, for which a person can search elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from trustwatch.ingest import described
from trustwatch.ingest.described import member
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch_client import risk_answers

WireInteger = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that frames and columns can hold; every reader of the record would fail for a larger one."""

LATEST_MS: Final = 253_402_300_799_999
"""End of the year 9999 in UTC milliseconds; later times cannot be formatted."""

WireTime = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
"""A time in UTC milliseconds."""


ConcernName = Literal["compromise", "malfunction", "overreach"]
"""Concern that an agent's level is about, as in settings and answers: `models.concerns.CONCERNS`."""

LevelName = Literal["unknown", "low", "medium", "high", "critical"]
"""Levels of risk as in settings and answers."""


class RiskLevel(IntEnum):
    """Risk levels in ascending order of restrictions; `UNKNOWN` does not mean low."""

    UNKNOWN = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def label(self) -> str:
        """The word used in every answer: `unknown`, `low`, `medium`, `high` or `critical`."""
        return self.name.lower()


ALERTING_LEVELS = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
"""Levels that an alert is raised at."""

AgentIdentity = tuple[str, str, str]
"""Tenant, issuer and id of an agent."""


class AgentName(msgspec.Struct, frozen=True, gc=False):  # a million are in memory, and none is in a cycle
    """Identity of an agent; `key` is its `IdentityHasher.agent_key` in the deployment (unsigned 64 bits)."""

    key: int
    tenant: described.TenantName
    issuer: described.IssuerName
    agent_id: described.AgentId

    @property
    def identity(self) -> AgentIdentity:
        """The name without its key."""
        return self.tenant, self.issuer, self.agent_id


class IdentityConflict(NamedTuple):
    """An agent whose key belongs to another agent, so its events are refused. *noticed_ms* is when one arrived."""

    tenant: str
    issuer: str
    agent_id: str
    noticed_ms: int


IndicatorKind = Literal["network", "address", "software", "credential", "key", "instance", "session", "target"]
IndicatorStatus = Literal["new", "known", "not_remembered", "with_new", "not_tracked"]
NEW_STATUSES: frozenset[IndicatorStatus] = frozenset({"new", "not_remembered", "with_new"})
"""Statuses of indicators that the agent is not known to have had before."""


class Indicator(risk_answers.Indicator, frozen=True):
    """An indicator of a kind and status that this version writes; clients may meet others."""

    kind: Annotated[IndicatorKind, risk_answers.KIND]
    value: Annotated[str, risk_answers.VALUE]
    status: Annotated[IndicatorStatus, risk_answers.STATUS]
    at: Annotated[str, risk_answers.MET_AT]


STATUS_WORDS = {
    "new": "new",
    "known": "known",
    "not_remembered": "not remembered",
    "with_new": "came with something new",
    "not_tracked": "",
}
"""Statuses as they are displayed."""

_decoder = msgspec.json.Decoder(tuple[Indicator, ...])
NO_INDICATORS = b"[]"
encode_indicators: Callable[[Sequence[Indicator]], bytes] = msgspec.json.Encoder().encode
"""Encodes indicators as the JSON list in rows and answers."""


def decode_indicators(kept: bytes) -> tuple[Indicator, ...]:
    """Decode indicators; empty bytes give none."""
    return _decoder.decode(kept) if kept else ()


def indicators_of_plain(given: Any) -> tuple[Indicator, ...]:
    """Return indicators from plain values; skips those that a later version wrote in another format."""
    indicators = []
    for members in given if isinstance(given, list | tuple) else ():
        with suppress(msgspec.ValidationError):
            indicators.append(msgspec.convert(members, Indicator))
    return tuple(indicators)


class AgentSummary(msgspec.Struct, frozen=True):
    """An agent as in lists and in the risk view."""

    name: AgentName
    agent_type: described.AgentType
    level: described.Level
    risk_score: described.RiskScore
    confidence: described.Confidence
    anomaly_score: described.AnomalyScore
    first_seen_ms: Annotated[int, member("time of the first event, if any", null=True)]
    last_seen_ms: Annotated[int, member("time of the last event, if any", null=True)]
    evaluated_ms: Annotated[int, member("when risk was last computed, if ever", null=True)]
    due_ms: int  # when the level next changes without events; 0 = never
    events: Annotated[int, member("number of events", 4210)]
    decision_id: Annotated[described.DecisionId, described.NULL]
    reasons: Annotated[bytes, described.REASONS]  # JSON list of RiskReason
    counterfactual: described.Counterfactual
    concern: Annotated[str, described.CONCERN] = ""  # of `models.concerns.CONCERNS`; "" below medium
    indicators: Annotated[bytes, described.INDICATORS] = NO_INDICATORS  # JSON list of Indicator
    announced_paths: bytes = b""  # see `engine.announced_paths`
    capabilities: bytes = b""  # declared, see `ingest.capabilities.encode_capabilities`; empty = none were


class AgentRow(AgentSummary, frozen=True, kw_only=True):
    """All that is stored about one agent: what the API lists, and the opaque state that the pipeline resumes from."""

    features: bytes  # state of the feature builder
    risk: bytes  # state of the risk kernel
    state_version: str  # layout + hash salt of `features` and `risk`


def agent_summary(row: AgentRow) -> AgentSummary:
    """Return a row without the state that only the pipeline needs."""
    return AgentSummary(*msgspec.structs.astuple(row)[: len(AgentSummary.__struct_fields__)])


class RiskRecord(msgspec.Struct, frozen=True, omit_defaults=False):
    """Value of a record of the risk topic: one agent's risk as of a version. Times are UTC milliseconds."""

    tenant: str
    issuer: str
    agent_id: str
    agent_key: str  # decimal: JSON numbers end at 53 bits
    agent_type: str
    risk_level: str
    risk_score: float
    confidence: float
    anomaly_score: float
    first_seen_ms: WireInteger
    last_seen_ms: WireInteger
    evaluated_ms: WireInteger
    due_ms: WireInteger
    events: WireInteger
    decision_id: str
    reasons: msgspec.Raw  # JSON list, as in the risk answer
    counterfactual: str
    partition: WireInteger
    epoch: WireInteger
    offset: WireInteger
    concern: str = ""  # that the level is about; "" = none, or not known to an earlier version
    indicators: msgspec.Raw = msgspec.Raw(NO_INDICATORS)  # JSON list, as in the risk answer
    announced_paths: bytes = b""  # for verdicts on calls, see `engine.announced_paths`
    capabilities: bytes = b""  # declared, see `ingest.capabilities.encode_capabilities`


_SAME_MEMBERS = (
    *("agent_type", "risk_score", "confidence", "anomaly_score", "first_seen_ms", "last_seen_ms", "evaluated_ms"),
    *("due_ms", "events", "decision_id", "counterfactual", "concern", "announced_paths", "capabilities"),
)
"""Members with the same name and value in `AgentSummary` and `RiskRecord`."""
_same_values = attrgetter(*_SAME_MEMBERS)


def risk_record(row: AgentSummary, partition: int, epoch: int, offset: int) -> RiskRecord:
    """Return the value of an agent's record on the risk topic."""
    name = row.name
    return RiskRecord(
        tenant=name.tenant,
        issuer=name.issuer,
        agent_id=name.agent_id,
        agent_key=str(name.key),
        risk_level=RiskLevel(row.level).label,
        reasons=msgspec.Raw(row.reasons or b"[]"),
        indicators=msgspec.Raw(row.indicators),
        partition=partition,
        epoch=epoch,
        offset=offset,
        **dict(zip(_SAME_MEMBERS, _same_values(row), strict=True)),
    )


def summary_from_record(record: RiskRecord, identities: IdentityHasher) -> AgentSummary:
    """Return the agent of a record as in the risk view, with its key from *identities*.

    Raises KeyError for a level of a later version.
    """
    name = record.tenant, record.issuer, record.agent_id
    return AgentSummary(
        name=AgentName(identities.agent_key(*name), *name),
        level=RiskLevel[record.risk_level.upper()],
        reasons=bytes(record.reasons),
        indicators=bytes(record.indicators),
        **dict(zip(_SAME_MEMBERS, _same_values(record), strict=True)),
    )


EdgeKind = Literal["delegated", "called", "acts_for"]


class AgentEdge(msgspec.Struct, frozen=True):
    """Edge between two agents, or an agent and a principal: an agent `delegated` to or `called` another one, or it
    `acts_for` a principal.

    Written when it is new, once an hour while it continues, and when its risk rises a step. Each member depends only on
    the events that showed the pair, in any order and from any writer.

    Attributes:
        first_ms: time of the first event.
        last_ms: time of the first event in the last hour (UTC) that has one, so it may be an hour old.
        risk: highest risk score of the agent that acted, rounded down to a step, less a step for each 72 minutes of
            age; 0 = below 0.3.
        risk_ms: time of the first event in its hour with that risk.
    """

    tenant: str
    issuer: str
    kind: EdgeKind
    source: str
    target: str
    first_ms: int
    last_ms: int
    risk: float = 0.0
    risk_ms: int = 0


EDGE_RISK_STEPS = 20
"""Steps between a risk of 0 and of 1 in edges."""
EDGE_RISK_STEP_MS = DAY_MS // EDGE_RISK_STEPS
"""Age that outweighs a step, so that any other risk replaces one that is a day old."""


def risk_rank(risk: float, risk_ms: int) -> tuple[int, float, int]:
    """Return the rank of an edge's risk, of which the highest is kept; `containment_store` has it as SQL."""
    return round(risk * EDGE_RISK_STEPS) * EDGE_RISK_STEP_MS + risk_ms - risk_ms % HOUR_MS, risk, -risk_ms


def merge_edges(one: AgentEdge, other: AgentEdge) -> AgentEdge:
    """Merge two edges of the same pair. The result does not depend on the order or number of merges."""
    earlier, later = sorted((one, other), key=lambda edge: edge.last_ms)
    last = earlier if earlier.last_ms // HOUR_MS == later.last_ms // HOUR_MS else later
    worst = max(one, other, key=lambda edge: risk_rank(edge.risk, edge.risk_ms))
    first_ms = min(one.first_ms, other.first_ms)
    return msgspec.structs.replace(worst, first_ms=first_ms, last_ms=last.last_ms)


class HistoryExtent(NamedTuple):
    """Extent of the events of all agents; 0 if there are none.

    Attributes:
        events: number of them.
        first_ms, last_ms: event times after a twentieth of them, and before the last twentieth.
    """

    events: int
    first_ms: int
    last_ms: int


class DueAgent(NamedTuple):
    """An agent whose level changes with time alone, at *due_ms*."""

    due_ms: int
    key: int


class VersionedAgent(NamedTuple):
    """An agent, and the position in its partition of the commit that wrote it. Versions order as (epoch, offset)."""

    agent: AgentSummary
    epoch: int
    offset: int


class ReleaseAgent(msgspec.Struct, tag_field="command", tag="release", forbid_unknown_fields=True):
    """Command: release an agent. Records of 0.1 have *key*, its decimal `identities.unkeyed_agent_key`, and no name."""

    key: str = ""
    by: str = ""
    note: str = ""
    tenant: str = ""
    issuer: str = ""
    agent_id: str = ""
