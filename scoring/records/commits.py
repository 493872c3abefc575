"""Values that one commit of a partition writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

from trustwatch.ingest.described import Level, TenantName, member

from .agents import AgentEdge, AgentRow
from .dead_letters import DeadLetter
from .decisions import Decision
from .erasures import PartitionErasure
from .feedback import PartitionRule
from .models import ModelSwitch

ONLY_PARTITION = 0
"""Number of the partition of a log that has one."""
ALERT_KEY_PREFIX = "alert-"
"""Prefix of the key of the outbox row that announces a decision; the decision's id follows."""

CASE_KEY_PREFIX = "case-changed-"
"""Prefix of the key of an outbox row that reports what a person did to a case."""


class OutboxRow(msgspec.Struct, frozen=True):
    """Message that is delivered at least once. Repeated deliveries have the same `key`."""

    key: str
    kind: str  # alert
    target: str  # name of a configured target; "" = every target of that kind
    payload: bytes
    created_ms: int  # when it was decided, on the clock of `Decision.decided_ms`
    agent_key: int = 0
    group: str = ""  # reason that the cool-down counts per agent; "" = no cool-down
    level: int = 0  # RiskLevel it announces: targets choose by it, and the cool-down never suppresses a higher one
    tenant: str = ""  # may see its delivery state


class Delivery(msgspec.Struct, frozen=True):
    """Delivery of one outbox row to one target."""

    key: Annotated[str, member("key of the delivery, the same at every attempt", "alert-01KAW43D1JQ4V1S0Z3Y8M4C2QK")]
    target: Annotated[str, member("name of the receiver in the settings", "soc")]
    kind: Annotated[str, member("kind of the message", "alert")]
    tenant: TenantName
    agent_key: int
    level: Annotated[Level, member("level that it announces", "high")]
    group: Annotated[str, member("reason by which the cool-down counts alerts of an agent", "first_seen_resource")]
    created_ms: Annotated[int, member("when it was decided")]
    status: Annotated[str, member("status of the delivery")]
    attempts: Annotated[int, member("attempts so far", 1)]
    next_attempt_ms: int  # earliest time of the next attempt; only while pending
    last_error: str  # why it is not delivered, suppressed ones included; "" = no reason is known
    delivered_ms: Annotated[int, member("when the receiver accepted it; null until then", null=True)]
    suppressed_before: Annotated[int, member("alerts that the cool-down suppressed before this one", 0)]
    payload: bytes = b""  # of the outbox row


class LeasedDelivery(NamedTuple):
    """One delivery to be attempted; *attempt* counts from 1 and identifies the lease."""

    seq: int
    row: OutboxRow
    target: str
    attempt: int
    queued_ms: int
    suppressed_before: int


class Position(msgspec.Struct, frozen=True):
    """Progress of a partition: `offset` is the next record to read."""

    partition: int
    epoch: int
    offset: int


class EventIdRun(msgspec.Struct, frozen=True):
    """Hashes of the event ids of consecutive records, from which the next owner restores its duplicate window."""

    first_offset: int
    hashes: bytes
    """Unsigned 64 bits of each record, little endian; 0 = it has no event id."""

    @property
    def end_offset(self) -> int:
        """The offset after the last record."""
        return self.first_offset + len(self.hashes) // 8


class Commit(msgspec.Struct, frozen=True):
    """Everything that one transaction writes. Refused as `Fenced` unless the stored position equals `expected`.

    Attributes:
        position: also the version (epoch, offset) of its agents.
        published: offset up to which all that commits wrote is published in topics; a lower one changes nothing.
        edges: between agents, that the committed events showed.
        feedback_rules: that began, ended or counted since the last commit.
        switches: models that became active in what is committed.
        removed_agents: keys of agents whose rows are deleted before `agents` are written.
        erasures: orders that were met, if there are several partitions: each has a separate offset of an order.
        event_ids: of records before `position`, if enough of them wait.
        event_ids_needed_from: offset before which event ids are deleted.
    """

    expected: Position
    position: Position
    agents: list[AgentRow]
    decisions: list[Decision]
    outbox: list[OutboxRow]
    dead_letters: list[DeadLetter]
    published: int = 0
    edges: Sequence[AgentEdge] = ()
    feedback_rules: Sequence[PartitionRule] = ()
    switches: Sequence[ModelSwitch] = ()
    removed_agents: Sequence[int] = ()
    erasures: Sequence[PartitionErasure] = ()
    event_ids: EventIdRun | None = None
    event_ids_needed_from: int = 0
