"""Messages from a pipeline process to the process that answers: committed changes, in frames over a local socket.

A frame is a 4-byte length and a msgpack `PipelineUpdate`. The pipeline blocks when the reader does not keep up: nothing
grows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ..records.agents import AgentName, AgentRow, AgentSummary
from ..records.decisions import Decision
from .partition import CommittedChanges

T = TypeVar("T")
LENGTH_PREFIX = struct.Struct("<I")
MAX_FRAME_ITEMS = 100
"""Agents in one frame: bounds the time for which taking one over holds up answers (about 0.3 ms)."""


class LevelChange(msgspec.Struct, array_like=True):
    """A change of level, for whoever watches."""

    decision_id: str
    tenant: str
    agent_id: str
    previous_level: int
    level: int
    risk_score: float
    text: str
    event_time_ms: int
    decided_ms: int


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
    """Changes that became durable. An update without agents is a sign of life."""

    agents: list[AgentSummary]
    changes: list[LevelChange]
    offset: int
    behind: int
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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PipelineUpdate)


def decode_update(frame: bytes) -> PipelineUpdate:
    """Decode the body of one frame."""
    return _decoder.decode(frame)


class PipelineUpdateSender:
    """Writes updates to a connected socket.

    Args:
        connection: its other end is read by the answering process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._offset = 0

    def send_commit(
        self, committed: CommittedChanges, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Send what a commit made durable, in frames of at most `MAX_FRAME_ITEMS` agents or changes of level.

        Agents come before the changes, and the new offset comes with the last frame: who waits for it finds all agents.
        Raises OSError when nobody reads.
        """
        frames: list[tuple[Sequence[AgentRow], Sequence[Decision]]] = [
            *((part, ()) for part in _chunked(committed.rows)),
            *(((), part) for part in _chunked(committed.decisions)),
        ]
        for rows, decisions in frames[:-1]:
            agents, changes = agent_summaries(rows), [level_change_of(decision) for decision in decisions]
            self.send(PipelineUpdate(agents, changes, self._offset, behind, counts, seconds))
        rows, decisions = frames[-1] if frames else ((), ())
        agents, changes = agent_summaries(rows), [level_change_of(decision) for decision in decisions]
        self._offset = committed.position.offset
        self.send(
            PipelineUpdate(agents, changes, self._offset, behind, counts, seconds, committed.dropped_dead_letters)
        )

    def send_alive(self, offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]) -> None:
        """Say that the pipeline lives and how far it is."""
        self._offset = offset
        self.send(PipelineUpdate([], [], offset, behind, counts, seconds))

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


def agent_summaries(rows: Sequence[AgentRow]) -> list[AgentSummary]:
    """Rows without the state that only the pipeline needs."""
    return [
        AgentSummary(
            r.name,
            r.agent_type,
            r.level,
            r.risk_score,
            r.confidence,
            r.anomaly_score,
            r.first_seen_ms,
            r.last_seen_ms,
            r.evaluated_ms,
            r.due_ms,
            r.events,
            r.decision_id,
            r.reasons,
            r.counterfactual,
            r.concern,
        )
        for r in rows
    ]
