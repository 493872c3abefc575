"""Reads the topics of risk and decisions for a process that answers, and turns records into updates of its view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from trustwatch.ingest.identities import IdentityHasher

from ..policy.risk_view import CommitVersion
from ..records.agents import AgentSummary, RiskLevel, RiskRecord, WireInteger, summary_from_record
from .ipc import AgentErased, LevelChange, PipelineUpdate, chunked
from .topic_publisher import ERASED_UP_TO_HEADER, Heartbeat

_risk_decoder = msgspec.json.Decoder(RiskRecord)
_heartbeat_decoder = msgspec.json.Decoder(Heartbeat)
_partition_key_decoder = msgspec.json.Decoder(tuple[str, str, str])


class _DecisionRecordData(msgspec.Struct):
    decision_id: str
    tenant: str
    agent_id: str
    previous_level: str
    level: str
    risk_score: float
    event_time_ms: WireInteger
    decided_ms: WireInteger
    reasons: list[dict[str, object]]


class _DecisionRecord(msgspec.Struct):
    data: _DecisionRecordData


class _EpochOnly(msgspec.Struct):
    epoch: WireInteger


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors of a decoder on bytes that are not a record of ours; the reader continues after them."""

_decision_decoder = msgspec.json.Decoder(_DecisionRecord)
_epoch_decoder = msgspec.json.Decoder(_EpochOnly)
_integer_decoder = msgspec.json.Decoder(WireInteger)


def epoch_of_record(value: bytes | None) -> int:
    """Return the epoch of a record of the risk topic, an agent's risk or a heartbeat; 0 if it is neither."""
    try:
        return _epoch_decoder.decode(value or b"").epoch
    except UNREADABLE:
        return 0


class RiskTopicReader:
    """Collects records that were read and hands them out as updates."""

    def __init__(self, partitions: int, identities: IdentityHasher = IdentityHasher()) -> None:  # noqa: B008
        self._identities = identities
        self._heartbeats: dict[int, Heartbeat] = {}
        self._partitions = partitions
        self._agents: dict[int, list[tuple[AgentSummary, CommitVersion]]] = defaultdict(list)
        self._changes: list[LevelChange] = []
        self._erased: list[AgentErased] = []
        self.unreadable_records = 0
        """Records that are neither risk nor a heartbeat nor a decision: written by a later version, or not by us."""

    def read_risk(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = 0,
    ) -> None:
        """Add one record of *partition* of the risk topic."""
        if value is None:
            self._read_erased(key, headers, partition)
            return
        try:
            if key is not None and key.startswith(b"{"):
                beat = _heartbeat_decoder.decode(value)
                newest = self._heartbeats.get(beat.partition)
                if newest is None or beat.epoch >= newest.epoch:  # a worker that was asleep may still send some
                    self._heartbeats[beat.partition] = beat
            else:
                record = _risk_decoder.decode(value)
                version = record.epoch, record.offset
                self._agents[record.partition].append((summary_from_record(record, self._identities), version))
        except (*UNREADABLE, KeyError):
            self.unreadable_records += 1

    def _read_erased(self, key: bytes | None, headers: Sequence[tuple[str, bytes | None]], partition: int) -> None:
        """Note that an agent was erased; a tombstone without our header is ignored."""
        try:
            up_to = _integer_decoder.decode(dict(headers)[ERASED_UP_TO_HEADER] or b"")
            gone = AgentErased(*_partition_key_decoder.decode(key or b""), partition, up_to)
        except (*UNREADABLE, KeyError):
            return
        kept = [(agent, version) for agent, version in self._agents[partition] if not gone.covers(agent.name, version)]
        self._agents[partition] = kept
        self._erased.append(gone)

    def read_decision(self, value: bytes | None) -> None:
        """Add one record of the decisions topic."""
        try:
            data = _decision_decoder.decode(value or b"").data
            text = str(data.reasons[0].get("text", "")) if data.reasons else ""
            change = LevelChange(
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
        except (*UNREADABLE, KeyError):
            self.unreadable_records += 1
        else:
            self._changes.append(change)

    def drain_updates(self, *, with_freshness: bool) -> list[PipelineUpdate]:
        """Return updates since the last call: agents before changes, progress last."""
        updates = [PipelineUpdate(forgotten=self._erased)] if self._erased else []
        for partition, agents in self._agents.items():
            for part in chunked(agents):
                versions = [version for _, version in part]
                updates.append(PipelineUpdate([agent for agent, _ in part], partition=partition, versions=versions))
        updates += [PipelineUpdate(changes=part) for part in chunked(self._changes)]
        self._erased, self._changes = [], []
        self._agents.clear()
        if with_freshness:
            beats = self._heartbeats
            fresh = {at: beats[at].fresh_ms if at in beats else 0 for at in range(self._partitions)}
            offset = sum(beat.offset for beat in beats.values())
            behind = sum(beat.behind for beat in beats.values())
            updates.append(PipelineUpdate(offset=offset, behind=behind, fresh=fresh))
        return updates
