"""Publishes to topics: risk (compacted, by agent), decisions, alerts, dead letters, and heartbeats.

Risk is sent as soon as it is applied; after a crash, uncommitted records are applied and published again. For the rest
the tables are the outbox: a row of an agent carries the version (epoch, offset) of its commit, a decision its offset,
and the position how far all of it was acknowledged. After a crash, what was not sent is found by its version. Readers
drop versions older than what they have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import msgspec

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.ingest.source import TopicWriter
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.ingest.topics.protocols import TopicNames

from ..delivery.notifiers.alert_events import CLOUDEVENTS_CONTENT_TYPE, build_alert_event, with_console_link
from ..policy.book import LivePolicy
from ..records.agents import AgentIdentity, AgentSummary, RiskLevel, WireInteger, risk_record
from ..records.commits import Commit, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from ..store.sql_store import SqlStore

ERASED_UP_TO_HEADER = "forgotten_up_to"
DECISION_TYPE = "io.trustwatch.decision.v1"
REPUBLISH_INTERVAL_MS = 30_000
"""Unchanged risk of an agent is sent again after this time."""

MAX_REMEMBERED_AGENTS = 1_000_000
_FLUSH_TIMEOUT_S = 30.0

_encode = msgspec.json.Encoder().encode
_DECISION_FIELDS = tuple(field for field in Decision.__struct_fields__ if field != "agent")
_decision_values = attrgetter(*_DECISION_FIELDS)
_HEADERS = (("content-type", CLOUDEVENTS_CONTENT_TYPE.encode()),)


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Heartbeat of a partition's worker, on the risk topic: everything that arrived before `fresh_ms` is published."""

    partition: WireInteger
    epoch: WireInteger
    offset: WireInteger
    behind: WireInteger
    fresh_ms: WireInteger


class _SentRisk(NamedTuple):
    """The last record that was sent of an agent: its risk as of a position, or its erasure."""

    position: Position
    agent: AgentSummary | ErasureSubject
    turn: int


@dataclass(eq=False, repr=False)
class TopicPublisher:
    """Publishes to topics, at least once: versions and ids let readers drop what they have. Thread-safe.

    Everything about a partition of events goes to the partition of the same number of the risk topic: there agents and
    heartbeats stay in order.
    """

    _writer: TopicWriter
    _store: SqlStore
    _names: TopicNames
    _policy: LivePolicy
    _service: str
    _console: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._last_sent: dict[int, dict[AgentIdentity, int]] = {}
        """Fingerprint of the last sent risk, by partition and agent."""
        self._unacknowledged: dict[tuple[int, AgentIdentity], _SentRisk] = {}
        """Sent risk that may not have arrived: the newest of each agent."""
        self._unacknowledged_decisions: list[Sequence[Decision]] = []
        self._flush_lock = threading.Lock()
        """One flush at a time: the writer does not state whose records failed, and only a waiting call learns of it."""
        self._doubts = 0
        """Number of times that records were refused or not acknowledged: all records in flight may be lost."""
        self._doubts_settled = 0
        """`_doubts` when unacknowledged records were sent last."""
        self._doubts_lock = threading.Lock()
        self._turn = 0
        """Number of waits for acknowledgment that began."""
        self.sent = 0
        self.unchanged = 0

    def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Send dead letters with their raw bytes, and wait until they have arrived. Raises Unavailable."""
        doubts = self._doubts
        for letter in letters:
            headers = (
                ("letter_id", letter.letter_id.encode()),
                ("reason", letter.reason.encode()),
                ("path", letter.path.encode()),
                ("source", letter.source.encode()),
                ("source_partition", b"%d" % letter.partition),
                ("source_offset", b"%d" % letter.offset),
            )
            self._send(
                self._names.dead_letters,
                letter.letter_id.encode(),
                letter.raw,
                headers=headers,
                timestamp_ms=letter.received_ms,
            )
        self._flush(doubts)

    # Records of an agent on the risk topic are in the order of their versions, since compaction keeps the last one: one
    # lock is held while they are sent, and a resend sends the newest.

    def publish_risk(
        self, position: Position, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure]
    ) -> None:
        """Send erased agents, then *agents* whose risk changed: a `RiskListener`.

        What a broker does not accept now is sent by `wait_acknowledged`.
        """
        with self._lock:
            fingerprints: dict[AgentIdentity, int] = self._last_sent.setdefault(position.partition, {})
            marks: dict[AgentIdentity, int] = {}
            for met in erasures:
                if met.owns_agent:
                    fingerprints.pop(met.subject.agent_identity, None)
                    erased = Position(position.partition, position.epoch, met.offset)
                    self._publish_latest(met.subject.agent_identity, erased, met.subject)
            for agent in agents:
                identity, mark = agent.name.identity, _fingerprint(agent)
                if marks.get(identity, fingerprints.get(identity)) == mark:
                    self.unchanged += 1
                    continue
                marks[identity] = mark
                self._publish_latest(identity, position, agent)
            if sum(map(len, self._last_sent.values())) + len(marks) > MAX_REMEMBERED_AGENTS:
                self._last_sent.clear()  # some are then sent once more than needed
            self._last_sent.setdefault(position.partition, {}).update(marks)

    def _publish_latest(
        self, identity: AgentIdentity, position: Position, agent: AgentSummary | ErasureSubject
    ) -> None:
        """Send the newest record of an agent; if records must be sent again, it waits for that."""
        sent = _SentRisk(position, agent, self._turn)
        self._unacknowledged[position.partition, identity] = sent
        if not self._must_resend:
            with contextlib.suppress(Unavailable):
                self._send_latest(sent)

    def _send_latest(self, sent: _SentRisk) -> None:
        position = sent.position
        if isinstance(sent.agent, ErasureSubject):
            self._send_erased(sent.agent, position.partition, position.offset)
        else:
            self._send_risk(sent.agent, position.partition, position.epoch, position.offset)

    def publish_commit(self, commit: Commit) -> None:
        """Send decisions and alerts of *commit*. Raises Unavailable: send it again."""
        self._send_decisions(commit.decisions)
        if commit.decisions:
            self._unacknowledged_decisions.append(commit.decisions)

    def wait_acknowledged(self) -> None:
        """Wait until all that was published before this call has arrived.

        Raises Unavailable: the next call sends all of it again.
        """
        with self._lock:
            if self._must_resend:
                self._doubts_settled = self._doubts
                for sent in self._unacknowledged.values():
                    self._send_latest(sent)
                for decisions in self._unacknowledged_decisions:
                    self._send_decisions(decisions)
            turn, self._turn = self._turn, self._turn + 1
            doubts = self._doubts_settled
        self._flush(doubts)
        with self._lock:
            if self._must_resend:
                raise Unavailable("a broker did not accept a record; it is sent again")
            self._unacknowledged = {key: sent for key, sent in self._unacknowledged.items() if sent.turn > turn}
            self._unacknowledged_decisions.clear()

    @property
    def _must_resend(self) -> bool:
        """True if unacknowledged records may be lost."""
        return self._doubts != self._doubts_settled

    def _note_doubt(self) -> None:
        with self._doubts_lock:
            self._doubts += 1

    def _send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        try:
            self._writer.send(topic, key, value, partition=partition, headers=headers, timestamp_ms=timestamp_ms)
        except Unavailable:
            self._note_doubt()
            raise

    def _flush(self, doubts: int) -> None:
        """Wait until what was sent has arrived.

        Raises Unavailable: send it again. Also raised if `_doubts` has changed since sending, when it was *doubts*: the
        writer does not state which record failed, and may have reported it to another call.
        """
        with self._flush_lock:
            try:
                self._writer.flush(_FLUSH_TIMEOUT_S)
            except Unavailable:
                self._note_doubt()
                raise
            if self._doubts != doubts:
                raise Unavailable("a broker did not accept a record, it may be one of these; they are sent again")

    def republish(self, position: Position, published: int) -> None:
        """Send again erased agents, decisions and alerts of commits after *published*. Raises Unavailable.

        What this process sent of the partition before does not count: other workers may have owned it since.
        """
        self.forget_partition(position.partition)
        if published >= position.offset:
            return
        doubts = self._doubts
        for erasure in self._store.erasures.erased_since(position.partition, published):
            self._send_erased(erasure.subject, position.partition, erasure.up_to[position.partition])
        self._send_decisions(self._store.decisions.iterate_unpublished(position.partition, published))
        self._flush(doubts)

    def forget_partition(self, partition: int) -> None:
        """Send no more risk of a partition that another worker owns."""
        with self._lock:
            self._last_sent.pop(partition, None)
            for key in [key for key in self._unacknowledged if key[0] == partition]:
                del self._unacknowledged[key]

    def publish_all_agents(self, position: Position) -> int:
        """Send the risk of every agent of a partition as of *position*, published or not; return their number.

        For a new epoch: no other record has it, and all later ones are newer. Raises Unavailable.
        """
        count, doubts = 0, self._doubts
        for summary, _, _ in self._store.agents.iterate_unpublished(position.partition, -1):
            self._send_risk(summary, position.partition, position.epoch, position.offset)
            count += 1
        self._flush(doubts)
        return count

    def publish_heartbeat(self, position: Position, behind: int, fresh_ms: int) -> None:
        """Send the progress of a partition without waiting, since the next one repeats it.

        Raises Unavailable, also while risk must be sent again: a heartbeat states that readers have all of it.
        """
        beat = Heartbeat(position.partition, position.epoch, position.offset, behind, fresh_ms)
        key = b'{"partition":%d}' % position.partition
        with self._lock:  # resent records go first
            if self._must_resend:
                raise Unavailable("a broker did not accept a record; it is sent again first")
            self._send(self._names.risk, key, _encode(beat), partition=position.partition)

    def _send_risk(self, row: AgentSummary, partition: int, epoch: int, offset: int) -> None:
        """Send a risk record with the time of sending: a broker refuses future times, which an agent's may be."""
        value = _encode(risk_record(row, partition, epoch, offset))
        self._send(self._names.risk, agent_partition_key(*row.name.identity), value, partition=partition)
        self.sent += 1

    def _send_erased(self, subject: ErasureSubject, partition: int, offset: int) -> None:
        key, value, headers = erased_agent_record(subject.partition_key, offset)
        self._send(self._names.risk, key, value, partition=partition, headers=headers)

    def _send_decisions(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            key = agent_partition_key(*decision.agent.identity)
            value, at_ms = decision_event(decision, self._service), decision.decided_ms
            self._send(self._names.decisions, key, value, headers=_HEADERS, timestamp_ms=at_ms)
            if max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM:
                policy = self._policy.book.policy_members(decision)
                alert = _encode(with_console_link(build_alert_event(decision, policy, self._service), self._console))
                self._send(self._names.alerts, key, alert, headers=_HEADERS, timestamp_ms=at_ms)


def _fingerprint(row: AgentSummary) -> int:
    """Return the fingerprint of an agent's risk: equal if answers do not differ in anything that is acted on."""
    return hash(
        (
            row.level,
            round(row.risk_score, 3),
            round(row.confidence, 2),
            row.due_ms,
            row.decision_id,
            row.reasons,
            row.counterfactual,
            row.concern,
            row.indicators,
            row.announced_paths,
            row.capabilities,
            row.agent_type,
            row.evaluated_ms // REPUBLISH_INTERVAL_MS,
        )
    )


def erased_agent_record(partition_key: bytes, offset: int) -> tuple[bytes, None, list[tuple[str, bytes]]]:
    """Return key, value and headers of the tombstone of an agent on the risk topic.

    Compaction drops earlier records and, some time later, this one. The header is the offset of the events partition up
    to which the agent is forgotten; later records are of a new agent.
    """
    return partition_key, None, [(ERASED_UP_TO_HEADER, b"%d" % offset)]


def decision_event(decision: Decision, source: str) -> bytes:
    """Return a decision as a CloudEvent, with everything that a replay needs."""
    name = decision.agent
    data = dict(zip(_DECISION_FIELDS, _decision_values(decision), strict=True))
    data.update(
        tenant=name.tenant,
        issuer=name.issuer,
        agent_id=name.agent_id,
        agent_key=str(name.key),
        previous_level=RiskLevel(decision.previous_level).label,
        level=RiskLevel(decision.level).label,
    )
    return _encode(
        {
            "specversion": "1.0",
            "id": decision.decision_id,
            "type": DECISION_TYPE,
            "source": source,
            "subject": name.agent_id,
            "time": format_rfc3339(decision.decided_ms),
            "datacontenttype": "application/json",
            "data": data,
        }
    )
