"""Plain values that scoring hands to its store, its outbox and the edge. Times are UTC milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from .erasures import PartitionErasure
    from .feedback import PartitionRule

from .models import ModelSwitch


class RiskLevel(IntEnum):
    """Risk levels in the order of what they cost the agent; `UNKNOWN` is no low."""

    UNKNOWN = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def label(self) -> str:
        """The word used in every answer: `unknown`, `low`, `medium`, `high`, `critical`."""
        return self.name.lower()


class AgentName(msgspec.Struct, frozen=True):
    """Identity of an agent in words; `key` is `trustwatch.ingest.hashing.agent_key` of it (unsigned 64 bits)."""

    key: int
    tenant: str
    issuer: str
    agent_id: str


class RiskReason(msgspec.Struct, frozen=True):
    """Why risk moved: one feature or hard signal, with what was seen and what is usual."""

    code: str
    feature: str
    observed: str
    usual: str
    contribution: float
    text: str


class AgentRow(msgspec.Struct, frozen=True):
    """All that is stored of one agent: what the API lists, and the opaque state that the pipeline resumes from."""

    name: AgentName
    agent_type: str
    level: int
    risk_score: float
    confidence: float
    anomaly_score: float
    first_seen_ms: int
    last_seen_ms: int
    evaluated_ms: int
    due_ms: int  # when the level next changes without events; 0 = never
    events: int
    decision_id: str  # the decision that set the current level; "" = none yet
    reasons: bytes  # JSON list of Reason
    counterfactual: str  # "" = none
    features: bytes  # state of the feature builder
    risk: bytes  # state of the risk kernel
    state_version: str  # layout + hash salt of `features` and `risk`


class AgentSummary(msgspec.Struct, frozen=True):
    """`AgentRow` without the state of the pipeline: what lists show and what the risk view holds."""

    name: AgentName
    agent_type: str
    level: int
    risk_score: float
    confidence: float
    anomaly_score: float
    first_seen_ms: int
    last_seen_ms: int
    evaluated_ms: int
    due_ms: int
    events: int
    decision_id: str
    reasons: bytes
    counterfactual: str


class Decision(msgspec.Struct, frozen=True):
    """A change of level: append-only, and enough to replay it."""

    decision_id: str
    agent: AgentName
    agent_type: str
    decided_ms: int
    event_id: str  # "" when time alone changed the level
    event_time_ms: int
    previous_level: int
    level: int
    risk_score: float
    confidence: float
    anomaly_score: float
    p_value: float
    reasons: tuple[RiskReason, ...]
    counterfactual: str
    feature_vector: dict[str, float]
    evidence: dict[str, Any]  # statistic, thresholds, window: what the risk kernel saw
    model_version: str
    baseline_version: str
    policy_version: str
    mode: str  # shadow | enforce
    cause: str  # event | tick | release | feedback
    partition: int
    offset: int


EdgeKind = Literal["delegated", "called", "acts_for"]


class AgentEdge(msgspec.Struct, frozen=True):
    """Who had to do with whom: an agent `delegated` to or `called` another one, or it `acts_for` a principal.

    Written when it is new, once an hour while it goes on, and when its risk rises; so `last_ms` may be an hour old.
    `risk` is the highest risk score of the agent that acted in events which showed the pair, as of `risk_ms`.
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


class OutboxRow(msgspec.Struct, frozen=True):
    """Something that must leave at least once. `key` makes a repeated delivery recognisable."""

    key: str
    kind: str  # alert
    target: str  # name of a configured target; "" = every target of that kind
    payload: bytes
    created_ms: int  # when it was decided, on the clock of `Decision.decided_ms`
    agent_key: int = 0
    group: str = ""  # reason that cool-down counts per agent; "" = never cooled down
    level: int = 0  # RiskLevel it announces: targets choose by it, and a higher one is never cooled down
    tenant: str = ""  # who may see its delivery state


class Delivery(msgspec.Struct, frozen=True):
    """How one outbox row fares at one target."""

    key: str
    target: str
    kind: str
    tenant: str
    agent_key: int
    level: int
    group: str
    created_ms: int
    status: str  # pending | delivered | failed | suppressed | dead
    attempts: int
    next_attempt_ms: int  # earliest time of the next attempt; only while pending
    last_error: str  # why it is not delivered, suppressed ones included; "" = no reason is known
    delivered_ms: int  # 0 = not (yet) delivered
    suppressed_before: int  # alerts cooled down between the previous alert and this one
    payload: bytes = b""  # of the outbox row


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that could not become an audit event; the raw bytes are kept so that nothing is lost."""

    letter_id: str
    received_ms: int
    source: str
    reason: str
    path: str
    raw: bytes
    partition: int
    offset: int


class Position(msgspec.Struct, frozen=True):
    """How far a partition has been applied. `offset` is the next record to read."""

    partition: int
    epoch: int
    offset: int


class Commit(msgspec.Struct, frozen=True):
    """Everything one transaction writes. Refused as `Fenced` unless the stored position equals `expected`.

    `position` is also the version (epoch, offset) that its agents get.
    """

    expected: Position
    position: Position
    agents: list[AgentRow]
    decisions: list[Decision]
    outbox: list[OutboxRow]
    dead_letters: list[DeadLetter]
    published: int = 0
    """What commits up to this offset wrote has left by topics; a lower one than is stored changes nothing."""
    edges: Sequence[AgentEdge] = ()
    """Who had to do with whom in what is committed."""
    feedback_rules: Sequence[PartitionRule] = ()
    """Rules of feedback that came, ended or counted since the last commit."""
    switches: Sequence[ModelSwitch] = ()
    """Models that came into force in what is committed."""
    removed_agents: Sequence[int] = ()
    """Keys of agents whose rows go before `agents` are written."""
    erasures: Sequence[PartitionErasure] = ()
    """Orders to forget that were met, where there are several partitions: each has its own offset of an order."""
