"""Messages from a pipeline process to the process that answers: risk and committed changes, in frames over a socket.

A frame is a 4-byte length and a msgpack `PipelineUpdate`. The pipeline blocks if the reader does not keep up, so no
buffer grows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from trustwatch.ingest.described import AgentId, DecisionId, Level, RiskScore, TenantName, member

from ..records.agents import AgentName, AgentSummary
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from .pipeline_context import CommittedChanges

T = TypeVar("T")
LENGTH_PREFIX = struct.Struct("<I")
MAX_FRAME_ITEMS = 100
"""Agents in one frame: bounds the time for which applying one delays answers (about 0.3 ms)."""


NOT_MEASURED = -1
"""`PipelineUpdate.behind` if the length of the log was not looked up."""


class LevelChange(msgspec.Struct, array_like=True):
    """A change of level, for watchers."""

    decision_id: DecisionId
    tenant: TenantName
    agent_id: AgentId
    previous_level: Level
    level: Level
    risk_score: RiskScore
    text: Annotated[str, member("the leading reason")]
    event_time_ms: Annotated[int, member("time of the event")]
    decided_ms: Annotated[int, member("when it was decided")]


class AgentErased(msgspec.Struct, array_like=True, frozen=True):
    """An erased agent: what commits up to an offset of its partition stated of it is to be forgotten."""

    tenant: str
    issuer: str
    agent_id: str
    partition: int
    offset: int

    def covers(self, name: AgentName, version: tuple[int, int] | None) -> bool:
        """Return whether knowledge of *name* as of *version* (None: of unknown age) has to be forgotten."""
        same = name.identity == (self.tenant, self.issuer, self.agent_id)
        return same and (version is None or version[1] <= self.offset)


class PipelineUpdate(msgspec.Struct, array_like=True):
    """Risk of agents that moved, and changes that became durable. An update without either only reports progress."""

    agents: Sequence[AgentSummary] = ()
    changes: Sequence[LevelChange] = ()
    offset: int = 0
    behind: int = 0
    """Records that wait behind both `offset` and `risk_offset`, as of this update; or `NOT_MEASURED`."""
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    dropped_dead_letters: int = 0
    partition: int = 0
    """Partition that the agents belong to."""
    versions: list[tuple[int, int]] | None = None
    """Epoch and offset of each agent; None if they come in order."""
    fresh: dict[int, int] | None = None
    """By partition, if there are several: all that arrived before that UTC millisecond is part of the answers."""
    forgotten: Sequence[AgentErased] = ()
    """Agents that were erased, before `agents` are applied."""
    risk_offset: int = 0
    """Offset before which all records are part of the agents that were sent, if one pipeline reports."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PipelineUpdate)


def decode_update(frame: bytes) -> PipelineUpdate:
    return _decoder.decode(frame)


class PipelineUpdateSender:
    """Writes updates to a connected socket. Each method raises OSError if nothing reads at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._last = PipelineUpdate()

    def send_risk(
        self, risk_offset: int, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure] = ()
    ) -> None:
        """Send erased agents, then those that moved, in frames of at most `MAX_FRAME_ITEMS`.

        The last frame carries *risk_offset*.
        """
        gone = [AgentErased(*met.subject.agent_identity, 0, met.offset) for met in erasures if met.owns_agent]
        if gone:
            self._send(behind=NOT_MEASURED, forgotten=gone)
        *before, last = chunked(agents) or [()]
        for part in before:
            self._send(behind=NOT_MEASURED, agents=part)
        self._last.risk_offset = risk_offset
        self._send(behind=NOT_MEASURED, agents=last)

    def send_commit(
        self, committed: CommittedChanges, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Send what a commit made durable, in frames of at most `MAX_FRAME_ITEMS` changes of level.

        The last frame carries the new offset.
        """
        *before, last = chunked([level_change_of(decision) for decision in committed.decisions]) or [()]
        for part in before:
            self._send(behind=NOT_MEASURED, changes=part)
        self._note_progress(committed.position.offset, behind, counts, seconds)
        self._send(changes=last, dropped_dead_letters=committed.dropped_dead_letters)

    def send_alive(
        self, offset: int, risk_offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Report that the pipeline runs: it has committed up to *offset*, and answers are up to *risk_offset*."""
        self._last.risk_offset = risk_offset
        self._note_progress(offset, behind, counts, seconds)
        self._send()

    def _note_progress(self, offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]) -> None:
        last = self._last
        last.offset, last.behind, last.counts, last.seconds = offset, behind, counts, seconds

    def _send(self, **changes: Any) -> None:
        self.send(msgspec.structs.replace(self._last, **changes))

    def send(self, update: PipelineUpdate) -> None:
        body = _encoder.encode(update)
        self._connection.sendall(LENGTH_PREFIX.pack(len(body)) + body)


def chunked(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + MAX_FRAME_ITEMS] for start in range(0, len(items), MAX_FRAME_ITEMS)]


def level_change_of(decision: Decision) -> LevelChange:
    """The change of level in a decision, as watchers get it."""
    text = decision.reasons[0].text if decision.reasons else ""
    return LevelChange(
        decision.decision_id,
        decision.agent.tenant,
        decision.agent.agent_id,
        decision.previous_level,
        decision.level,
        decision.risk_score,
        text,
        decision.event_time_ms,
        decision.decided_ms,
    )
