"""Messages from a pipeline process to the process that answers: risk and committed changes, in frames over a socket.

A frame is a 4-byte length and a msgpack `PipelineUpdate`. The pipeline blocks when the reader does not keep up: nothing
grows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from trustwatch.ingest.described import AgentId, DecisionId, Level, RiskScore, TenantName, member

from ..records.agents import AgentName, AgentSummary
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from .pipeline_context import CommittedChanges

T = TypeVar("T")
LENGTH_PREFIX = struct.Struct("<I")
MAX_FRAME_ITEMS = 100
"""Agents in one frame: bounds the time for which taking one over holds up answers (about 0.3 ms)."""


NOT_MEASURED = -1
"""`PipelineUpdate.behind` where nobody looked how long the log is."""


class LevelChange(msgspec.Struct, array_like=True):
    """A change of level, for whoever watches."""

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
    """An erased agent: forget what commits up to an offset of its partition said of it."""

    tenant: str
    issuer: str
    agent_id: str
    partition: int
    offset: int

    def covers(self, name: AgentName, version: tuple[int, int] | None) -> bool:
        """Tell whether knowledge of *name* as of *version* (None: of unknown age) has to be forgotten."""
        same = name.identity == (self.tenant, self.issuer, self.agent_id)
        return same and (version is None or version[1] <= self.offset)


class PipelineUpdate(msgspec.Struct, array_like=True):
    """Risk of agents that moved, and changes that became durable. An update without either is a sign of life."""

    agents: list[AgentSummary]
    changes: list[LevelChange]
    offset: int
    behind: int
    """Records that wait behind both `offset` and `risk_offset`, as of this update; `NOT_MEASURED` where it does not
    say."""
    counts: dict[str, int]
    seconds: dict[str, float]
    dropped_dead_letters: int = 0
    partition: int = 0
    """Partition that the agents belong to."""
    versions: list[tuple[int, int]] | None = None
    """Epoch and offset of each agent; None: they come in order."""
    fresh: dict[int, int] | None = None
    """By partition, where there are several: all that arrived before that UTC millisecond is part of the answers."""
    forgotten: list[AgentErased] = []
    """Agents that were erased, before `agents` are applied."""
    risk_offset: int = 0
    """Offset before which all records are part of the agents that were sent, where one pipeline reports."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PipelineUpdate)


def decode_update(frame: bytes) -> PipelineUpdate:
    """Decode the body of one frame."""
    return _decoder.decode(frame)


class PipelineUpdateSender:
    """Writes updates to a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._offset = self._behind = self._risk_offset = 0
        self._counts: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def send_risk(
        self, risk_offset: int, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure] = ()
    ) -> None:
        """Send erased agents, then those that moved, in frames of at most `MAX_FRAME_ITEMS`.

        The last one reports that answers go so far. Raises OSError if no process reads.
        """
        gone = [AgentErased(*met.subject.agent_identity, 0, met.offset) for met in erasures if met.owns_agent]
        if gone:
            self._send(forgotten=gone, measured=False)
        *before, last = _chunked(agents) or [()]
        for part in before:
            self._send(part, measured=False)
        self._risk_offset = risk_offset
        self._send(last, measured=False)

    def send_commit(
        self, committed: CommittedChanges, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Send what a commit made durable, in frames of at most `MAX_FRAME_ITEMS` changes of level.

        The new offset comes with the last frame. Raises OSError when nobody reads.
        """
        *before, last = _chunked([level_change_of(decision) for decision in committed.decisions]) or [()]
        for part in before:
            self._send(changes=part, measured=False)
        self._offset, self._behind, self._counts, self._seconds = committed.position.offset, behind, counts, seconds
        self._send(changes=last, dropped_dead_letters=committed.dropped_dead_letters)

    def _send(
        self,
        agents: Sequence[AgentSummary] = (),
        changes: Sequence[LevelChange] = (),
        dropped_dead_letters: int = 0,
        *,
        forgotten: Sequence[AgentErased] = (),
        measured: bool = True,
    ) -> None:
        self.send(
            PipelineUpdate(
                list(agents),
                list(changes),
                self._offset,
                self._behind if measured else NOT_MEASURED,
                self._counts,
                self._seconds,
                dropped_dead_letters,
                forgotten=list(forgotten),
                risk_offset=self._risk_offset,
            )
        )

    def send_alive(
        self, offset: int, risk_offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Say that the pipeline lives and how far it is: committed up to *offset*, answers up to *risk_offset*."""
        self._risk_offset = risk_offset
        self._offset, self._behind, self._counts, self._seconds = offset, behind, counts, seconds
        self._send()

    def send(self, update: PipelineUpdate) -> None:
        """Send one update as it is. Raises OSError when nobody reads."""
        body = _encoder.encode(update)
        self._connection.sendall(LENGTH_PREFIX.pack(len(body)) + body)


def _chunked(items: Sequence[T]) -> list[Sequence[T]]:
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
