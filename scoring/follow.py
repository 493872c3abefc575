"""Reads the topics of risk and decisions for a process that answers: records become updates of its view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from .channel import MOST_ROWS, Change, Gone, Update
from .publish import FORGOTTEN_UP_TO, Heartbeat, RiskRecord, summary_of
from .records import AgentSummary, RiskLevel
from .view import Version

_risk = msgspec.json.Decoder(RiskRecord)
_beat = msgspec.json.Decoder(Heartbeat)
_route = msgspec.json.Decoder(tuple[str, str, str])


class _DecisionData(msgspec.Struct):
    decision_id: str
    tenant: str
    agent_id: str
    previous_level: str
    level: str
    risk_score: float
    event_time_ms: int
    decided_ms: int
    reasons: list[dict[str, object]]


class _Decision(msgspec.Struct):
    data: _DecisionData


class _Versioned(msgspec.Struct):
    epoch: int


_decision = msgspec.json.Decoder(_Decision)
_versioned = msgspec.json.Decoder(_Versioned)


def epoch_of(value: bytes | None) -> int:
    """Epoch that a record of the risk topic carries, be it an agent's risk or a sign of life; 0 = neither."""
    try:
        return _versioned.decode(value or b"").epoch
    except msgspec.MsgspecError:
        return 0


class RiskFollower:
    """Collects what was read and hands it out as updates.

    Args:
        partitions: of the events topic: a partition without any sign of life makes its agents' answers stale.
    """

    def __init__(self, partitions: int) -> None:
        self._beats: dict[int, Heartbeat] = {}
        self._partitions = partitions
        self._agents: dict[int, list[tuple[AgentSummary, Version]]] = defaultdict(list)
        self._changes: list[Change] = []
        self._gone: list[Gone] = []
        self.unreadable = 0
        """Records that are neither risk nor a sign of life nor a decision: written by a later version, or not by us."""

    def risk(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = 0,
    ) -> None:
        """Take one record of the risk topic's *partition*."""
        if value is None:
            self._forget(key, headers, partition)
            return
        try:
            if key is not None and key.startswith(b"{"):
                self._heard(_beat.decode(value))
            else:
                record = _risk.decode(value)
                version = record.epoch, record.offset
                self._agents[record.partition].append((summary_of(record), version))
        except (msgspec.MsgspecError, ValueError, KeyError):
            self.unreadable += 1

    def _forget(self, key: bytes | None, headers: Sequence[tuple[str, bytes | None]], partition: int) -> None:
        """An agent was erased; a tombstone without our header is nobody's word."""
        try:
            gone = Gone(*_route.decode(key or b""), partition, int(dict(headers)[FORGOTTEN_UP_TO] or b""))
        except (msgspec.MsgspecError, ValueError, KeyError):
            return
        kept = [(one, version) for one, version in self._agents[partition] if not gone.means(one.name, version)]
        self._agents[partition] = kept
        self._gone.append(gone)

    def _heard(self, beat: Heartbeat) -> None:
        """A worker that was asleep may still speak for a partition: the highest epoch counts."""
        known = self._beats.get(beat.partition)
        if known is None or beat.epoch >= known.epoch:
            self._beats[beat.partition] = beat

    def decision(self, value: bytes | None) -> None:
        """Take one record of the decisions topic."""
        try:
            data = _decision.decode(value or b"").data
            text = str(data.reasons[0].get("text", "")) if data.reasons else ""
            change = Change(
                data.decision_id,
                data.tenant,
                data.agent_id,
                RiskLevel[data.previous_level.upper()],
                RiskLevel[data.level.upper()],
                data.risk_score,
                text,
                data.event_time_ms,
                data.decided_ms,
            )
        except (msgspec.MsgspecError, KeyError):
            self.unreadable += 1
        else:
            self._changes.append(change)

    def updates(self, *, with_freshness: bool) -> list[Update]:
        """What was collected since the last call; agents before changes, signs of life last.

        Args:
            with_freshness: whether the topic was read up to its end at the start; before, answers are stale.
        """
        found = [Update([], [], 0, 0, {}, {}, forgotten=self._gone)] if self._gone else []
        self._gone = []
        found += [
            Update([one for one, _ in part], [], 0, 0, {}, {}, partition=partition, versions=[v for _, v in part])
            for partition, agents in self._agents.items()
            for part in (agents[start : start + MOST_ROWS] for start in range(0, len(agents), MOST_ROWS))
        ]
        self._agents.clear()
        for start in range(0, len(self._changes), MOST_ROWS):
            found.append(Update([], self._changes[start : start + MOST_ROWS], 0, 0, {}, {}))
        self._changes = []
        if with_freshness:
            beats = self._beats
            fresh = {at: beats[at].fresh_ms if at in beats else 0 for at in range(self._partitions)}
            offset = sum(beat.offset for beat in beats.values())
            behind = sum(beat.behind for beat in beats.values())
            found.append(Update([], [], offset, behind, {}, {}, fresh=fresh))
        return found
