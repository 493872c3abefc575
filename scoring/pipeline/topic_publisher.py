"""Publishing by topics: risk (compacted, by agent), decisions, alerts, dead letters, and signs of life.

Risk leaves as soon as it is applied; what was not committed then is applied again after a crash, and published again.
For the rest the tables are the outbox: a row of an agent carries the version (epoch, offset) of the commit that wrote
it, a decision its offset, and the position how far all of it was acknowledged. So what a crash kept from leaving is
found again by its version, and nothing is written twice to be sent once. Readers drop a version older than what they
have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.ingest.source import TopicWriter
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.ingest.topics.topic_definitions import TopicNames

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
"""A calm agent's unchanged risk is sent again when it was evaluated that much later."""

MAX_REMEMBERED_AGENTS = 1_000_000
_FLUSH_TIMEOUT_S = 30.0

_encode = msgspec.json.Encoder().encode
_DECISION_FIELDS = tuple(field for field in Decision.__struct_fields__ if field != "agent")
_decision_values = attrgetter(*_DECISION_FIELDS)
_HEADERS = (("content-type", CLOUDEVENTS_CONTENT_TYPE.encode()),)


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Sign of life of one partition's worker, on the risk topic: all that arrived before `fresh_ms` is published."""

    partition: WireInteger
    epoch: WireInteger
    offset: WireInteger
    behind: WireInteger
    fresh_ms: WireInteger


class _SentRisk(NamedTuple):
    """The last record that was sent about one agent: its risk as of a position, or its erasure."""

    position: Position
    agent: AgentSummary | ErasureSubject
    turn: int


class TopicPublisher:
    """Implements `Publisher` on topics.

    Everything about a partition of events goes to the partition of the same number of the risk topic: there agents and
    signs of life stay in order.
    """

    def __init__(
        self,
        writer: TopicWriter,
        store: SqlStore,
        names: TopicNames,
        policy: LivePolicy,
        service: str,
        console: str = "",
    ) -> None:
        self._writer = writer
        self._store = store
        self._names = names
        self._policy = policy
        self._service = service
        self._console = console
        self._lock = threading.Lock()
        self._last_sent: dict[int, dict[AgentIdentity, int]] = {}
        """Fingerprint of the risk that was sent last, by partition and agent."""
        self._unacknowledged: dict[tuple[int, AgentIdentity], _SentRisk] = {}
        """Risk that was sent and perhaps has not arrived: of each agent the newest."""
        self._unacknowledged_decisions: list[Sequence[Decision]] = []
        self._flush_lock = threading.Lock()
        """One flush at a time: whose records a failure lost the writer does not say, and it tells only who waits."""
        self._doubts = 0
        """Number of times that records were not taken or not acknowledged: all that were on their way may be lost."""
        self._doubts_settled = 0
        """That number when what is not acknowledged was sent last."""
        self._doubts_lock = threading.Lock()
        self._turn = 0
        """Number of waits for acknowledgement that began."""
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

    # Per agent the records of the risk topic are in the order of their versions, since compaction keeps the last one:
    # one lock is around all that send some, and what is sent again is what is newest then.

    def publish_risk(
        self, position: Position, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure]
    ) -> None:
        """Send erased agents, then *agents* whose risk changed: a `RiskListener`.

        What a broker does not take now is sent by `wait_acknowledged`.
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
            self._remember_sent(position.partition, marks)

    def _publish_latest(
        self, identity: AgentIdentity, position: Position, agent: AgentSummary | ErasureSubject
    ) -> None:
        """Send what is now the newest of an agent; if some has to be sent again, it waits for that."""
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
                self._resend()
            turn, self._turn = self._turn, self._turn + 1
            doubts = self._doubts_settled
        self._flush(doubts)
        with self._lock:
            if self._must_resend:
                raise Unavailable("a broker did not take a record; it is sent again")
            self._unacknowledged = {key: sent for key, sent in self._unacknowledged.items() if sent.turn > turn}
            self._unacknowledged_decisions.clear()

    @property
    def _must_resend(self) -> bool:
        """True if some of what is not acknowledged may be lost."""
        return self._doubts != self._doubts_settled

    def _note_doubt(self) -> None:
        with self._doubts_lock:
            self._doubts += 1

    def _resend(self) -> None:
        self._doubts_settled = self._doubts
        for sent in self._unacknowledged.values():
            self._send_latest(sent)
        for decisions in self._unacknowledged_decisions:
            self._send_decisions(decisions)

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

        Raises Unavailable: it is to be sent again. Also where there were *doubts* before it was sent, and more by now:
        the writer does not say which record it was, and told another thread, or this one as it sent something else.
        """
        with self._flush_lock:
            try:
                self._writer.flush(_FLUSH_TIMEOUT_S)
            except Unavailable:
                self._note_doubt()
                raise
            if self._doubts != doubts:
                raise Unavailable("a broker did not take a record, it may be one of these; they are sent again")

    def republish(self, position: Position, published: int) -> None:
        """Send again erased agents, decisions and alerts of commits after *published*. Raises Unavailable.

        What this process told of the partition before does not count any more: others may have had it since.
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
        """Send no more risk of a partition; what was sent of it may have been overtaken by its owner's."""
        with self._lock:
            self._last_sent.pop(partition, None)
            for key in [key for key in self._unacknowledged if key[0] == partition]:
                del self._unacknowledged[key]

    def publish_all_agents(self, position: Position) -> int:
        """Send the risk of every agent of a partition as of *position*, be it published or not; returns their number.

        For an epoch that nobody has worked in: no other record has it, and all later ones are newer. Raises
        Unavailable.
        """
        count, doubts = 0, self._doubts
        for summary, _, _ in self._store.agents.iterate_unpublished(position.partition, -1):
            self._send_risk(summary, position.partition, position.epoch, position.offset)
            count += 1
        self._flush(doubts)
        return count

    def publish_heartbeat(self, position: Position, behind: int, fresh_ms: int) -> None:
        """Say how far a partition is; not waited for, since the next one says it again.

        Raises Unavailable, also while risk has to be sent again: a sign of life says that readers have all of it.
        """
        beat = Heartbeat(position.partition, position.epoch, position.offset, behind, fresh_ms)
        key = b'{"partition":%d}' % position.partition
        with self._lock:  # what is being sent again goes first
            if self._must_resend:
                raise Unavailable("a broker did not take a record; it is sent again first")
            self._send(self._names.risk, key, _encode(beat), partition=position.partition)

    def _send_risk(self, row: AgentSummary, partition: int, epoch: int, offset: int) -> None:
        """Send a risk record, with the time of sending: a broker refuses times ahead, as those of an agent may be."""
        name = row.name
        key = agent_partition_key(*name.identity)
        value = _encode(risk_record(row, partition, epoch, offset))
        self._send(self._names.risk, key, value, partition=partition)
        self.sent += 1

    def _send_erased(self, subject: ErasureSubject, partition: int, offset: int) -> None:
        key, value, headers = erased_agent_record(subject.partition_key, offset)
        self._send(self._names.risk, key, value, partition=partition, headers=headers)

    def _send_decisions(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            name = decision.agent
            key = agent_partition_key(*name.identity)
            value, at_ms = decision_event(decision, self._service), decision.decided_ms
            self._send(self._names.decisions, key, value, headers=_HEADERS, timestamp_ms=at_ms)
            if max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM:
                policy = self._policy.book.policy_members(decision)
                alert = _encode(with_console_link(build_alert_event(decision, policy, self._service), self._console))
                self._send(self._names.alerts, key, alert, headers=_HEADERS, timestamp_ms=at_ms)

    def _remember_sent(self, partition: int, fingerprints: dict[AgentIdentity, int]) -> None:
        if sum(map(len, self._last_sent.values())) + len(fingerprints) > MAX_REMEMBERED_AGENTS:
            self._last_sent.clear()  # then some are sent once more than needed
        self._last_sent.setdefault(partition, {}).update(fingerprints)


def _fingerprint(row: AgentSummary) -> int:
    """Fingerprint of an agent's risk: equal where answers do not differ in anything that is acted on."""
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
    """Key, value and headers of the record that ends what the risk topic says of an agent.

    No value: compaction drops what was told before, and some time later this record, too. The header says up to which
    offset of its partition of events the agent is forgotten: what is newer is somebody new.
    """
    return partition_key, None, [(ERASED_UP_TO_HEADER, b"%d" % offset)]


def decision_event(decision: Decision, source: str) -> bytes:
    """A decision as a CloudEvent: everything that a replay needs, too."""
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
