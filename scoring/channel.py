"""What a pipeline process tells the process that answers: committed changes, in frames over a local socket.

A frame is a 4-byte length and a msgpack `Update`. The pipeline blocks when the reader does not keep up, so nothing grows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

import msgspec

from .pipeline import Committed
from .records import AgentRow, AgentSummary

LENGTH = struct.Struct("<I")
MOST_ROWS = 500
"""Agents in one frame: bounds the time for which decoding one holds up answers (about 1 ms)."""


class Change(msgspec.Struct, array_like=True):
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


class Update(msgspec.Struct, array_like=True):
    """What became durable. An update without agents is a sign of life."""

    agents: list[AgentSummary]
    changes: list[Change]
    offset: int
    behind: int
    counts: dict[str, int]
    seconds: dict[str, float]
    dropped_dead_letters: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Update)


def decode_update(frame: bytes) -> Update:
    """Decode the body of one frame."""
    return _decoder.decode(frame)


class UpdateSender:
    """Writes updates to a connected socket.

    Args:
        connection: its other end is read by the answering process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def committed(self, done: Committed, counts: dict[str, int], seconds: dict[str, float]) -> None:
        """Send what a commit made durable, cut into frames of at most MOST_ROWS agents. Raises OSError when nobody reads."""
        changes = [
            Change(
                d.decision_id, d.agent.tenant, d.agent.agent_id, d.previous_level, d.level, d.risk_score,
                d.reasons[0].text if d.reasons else "", d.event_time_ms, d.decided_ms,
            ) for d in done.decisions
        ]  # fmt: skip
        rows = done.rows
        for start in range(0, max(len(rows), 1), MOST_ROWS):
            last = start + MOST_ROWS >= len(rows)
            part = rows[start : start + MOST_ROWS]
            self._send(
                Update(
                    summaries(part), changes if last else [], done.position.offset, done.behind, counts, seconds,
                    done.dropped_dead_letters if last else 0,
                )
            )  # fmt: skip

    def alive(self, offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]) -> None:
        """Say that the pipeline lives and how far it is."""
        self._send(Update([], [], offset, behind, counts, seconds))

    def _send(self, update: Update) -> None:
        body = _encoder.encode(update)
        self._connection.sendall(LENGTH.pack(len(body)) + body)


def summaries(rows: Sequence[AgentRow]) -> list[AgentSummary]:
    """Rows without the state that only the pipeline needs."""
    return [
        AgentSummary(
            r.name, r.agent_type, r.level, r.risk_score, r.confidence, r.anomaly_score, r.first_seen_ms, r.last_seen_ms,
            r.evaluated_ms, r.due_ms, r.events, r.decision_id, r.reasons, r.counterfactual,
        ) for r in rows
    ]  # fmt: skip
