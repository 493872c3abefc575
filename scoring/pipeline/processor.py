"""The processor turns raw records into decisions. Only records change state, so a replay gives the same result.

`Processor` has no store and no clock: the live pipeline (`partition.py`) adds transactions, `replay` adds nothing.
Changes of level become decisions in `engine/decision_maker.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.archive.vector_spool import VectorFrame, encode_frame
from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import SlotIndices
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.record_keys import partition_of
from trustwatch.ingest.scan.raw_encoder import EventDecoder, RawEncoder
from trustwatch.ingest.source import Record, RecordBatch, RecordKind

from ..engine import risk_levels
from ..engine.composites import reset_decaying_state, reset_session_strangeness
from ..engine.decision_maker import DecisionMaker, RecordMoment
from ..engine.delegation import EdgeCollector
from ..engine.engine import Engine
from ..engine.explanations import sanitize_text
from ..engine.scored_batch import ScoredBatch
from ..policy.book import LivePolicy
from ..records.agents import LATEST_MS, AgentIdentity, IdentityConflict, ReleaseAgent
from ..records.dead_letters import DeadLetter, dead_letter_of_record, dead_letter_of_refused_input
from ..records.decisions import Decision, RiskReason
from ..records.erasures import EraseCommand, PartitionErasure
from ..records.feedback import AdoptFeedbackRule, RevokeFeedbackRule
from ..records.models import decode_model_switch
from .model_switch import ActiveModels, ModelSwitcher

# A command is a record among the events, so a replay, a restart and an undisturbed run apply it at the same place.

_command_decoder: msgspec.json.Decoder[ReleaseAgent | AdoptFeedbackRule | RevokeFeedbackRule] = msgspec.json.Decoder(
    ReleaseAgent | AdoptFeedbackRule | RevokeFeedbackRule
)
_erasure_decoder = msgspec.json.Decoder(EraseCommand)


@dataclass(eq=False)
class ControlRecords:
    """Applies the control records of one partition."""

    _engine: Engine
    _decider: DecisionMaker
    _models: ModelSwitcher
    _edges: EdgeCollector | None
    partition_count: int = 1
    """Number of partitions of the log: an agent is erased in the partition that has its state."""
    erasures: list[PartitionErasure] = field(default_factory=list)
    """Erasures since the last commit; the pipeline takes them."""

    def apply(self, partition: int, offset: int, record: Record) -> list[Decision]:
        """Apply a CONTROL or FORGET record; returns the decisions that follow from it.

        Raises MalformedEvent, ModelError.
        """
        moment = RecordMoment(partition, offset, record.received_ms)
        if record.kind == RecordKind.FORGET:
            self._apply_erasure(record.payload, moment)
            return []
        if (switch := decode_model_switch(record.payload)) is not None:
            self._models.switch(switch, *moment)
            return []
        return self._apply_command(record.payload, moment)

    def _apply_command(self, payload: bytes, moment: RecordMoment) -> list[Decision]:
        """Apply a release, a rule of feedback that holds from here on, or the end of one."""
        states, rules = self._engine.agent_states, self._engine.feedback_rules
        name: AgentIdentity | None
        try:
            command = _command_decoder.decode(payload)
            named = command if isinstance(command, ReleaseAgent) else command.rule
            name = named.tenant, named.issuer, named.agent_id
            if not named.agent_id:  # a record of 0.1
                name = states.find_unkeyed(int(np.uint64(int(named.key))))
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise MalformedEvent(f"not a command: {error}") from error
        if isinstance(command, RevokeFeedbackRule):
            rules.revoke(command.rule, moment.offset)
            return []
        if isinstance(command, AdoptFeedbackRule) and (
            not rules.adopt(command.rule, moment.offset, moment.at_ms) or command.withdraw <= 0.0
        ):
            return []
        slot = None if name is None else states.find_slot(name)
        if slot is None:
            return []
        if isinstance(command, ReleaseAgent):
            return self._release(slot, command, moment)
        return self._withdraw_evidence(slot, command, moment)

    def _release(self, slot: int, command: ReleaseAgent, moment: RecordMoment) -> list[Decision]:
        engine = self._engine
        state = engine.risk[slot]
        previous = int(state["level"])
        risk_levels.release(state, moment.at_ms, engine.risk_parameters)
        reset_decaying_state(engine.builder.state, slot)
        engine.agents.mark_changed(np.array([slot], np.int32))
        engine.builder.pinned[slot] = False
        level = int(state["level"])
        by, note = sanitize_text(command.by), sanitize_text(command.note) or "no note"
        reason = RiskReason("released", "release", by, "", 1.0, f"released by {by}: {note}")
        return [self._decider.decide_level_change(slot, moment, previous, level, "release", reason)]

    def _withdraw_evidence(self, slot: int, command: AdoptFeedbackRule, moment: RecordMoment) -> list[Decision]:
        """Withdraw the evidence for a decision that a person calls a false positive."""
        engine = self._engine
        decisions = self._decider.decide_time_passed(np.array([slot], np.int32), moment)
        previous = int(engine.risk["level"][slot])
        limits = engine.thresholds[engine.agents.threshold_rows[slot]]
        risk_levels.withdraw(engine.risk, slot, command.withdraw, limits, engine.risk_parameters)
        reset_session_strangeness(engine.builder.state, slot)
        engine.agents.mark_changed(np.array([slot], np.int32))
        engine.builder.pinned[slot] = engine.risk["due_ms"][slot] != 0
        level, by = int(engine.risk["level"][slot]), sanitize_text(command.by)
        text = (
            f"{by} calls decision {sanitize_text(command.decision_id)} a false positive: {sanitize_text(command.why)}"
        )
        reason = RiskReason("feedback", "feedback", by, "", 1.0, text)
        return [*decisions, self._decider.decide_level_change(slot, moment, previous, level, "feedback", reason)]

    def _apply_erasure(self, payload: bytes, moment: RecordMoment) -> None:
        """Erase an agent or a name from the state; after the commit, what was written is erased."""
        try:
            order = _erasure_decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise MalformedEvent(f"the name to forget cannot be read: {error}") from error
        subject = order.subject
        if not subject.name:
            raise MalformedEvent("the name to forget is empty")
        count = self.partition_count
        ours = subject.kind == "agent" and (
            count == 1 or partition_of(subject.partition_key, count) == moment.partition
        )
        self._engine.agent_states.erase(subject, ours=ours)
        self._engine.feedback_rules.erase(subject)
        self.erasures.append(PartitionErasure(order.erasure_id, subject, moment.offset, moment.at_ms, ours))
        if self._edges is not None:
            self._edges.clear()


_MAX_AHEAD_MS = layout.MOST_DISORDER_MS
"""Longest lead of a fast clock: a longer one would make events of correct clocks late and hide their pace."""
_LAST_MS = np.iinfo(np.int64).max


class AppliedBatch(NamedTuple):
    """Results of a batch of records."""

    scored: list[tuple[ScoredBatch, np.ndarray[tuple[int], np.dtype[np.int64]]]]  # with the offsets of the rows
    decisions: list[Decision]
    dead_letters: list[DeadLetter]
    duplicates: int
    events: int
    identity_conflicts: list[IdentityConflict]


class Processor:
    """Applies records in order."""

    def __init__(
        self,
        engine: Engine,
        encoder: ColumnEncoder,
        window: DuplicateWindow,
        policy: LivePolicy,
        decode: EventDecoder = decode_event,
        edges: EdgeCollector | None = None,
        models: ActiveModels | None = None,
        vectors: VectorCollector | None = None,
        *,
        compiled_elsewhere: bool = False,
    ) -> None:
        self.engine = engine
        self.duplicate_window = window
        self.edge_collector = edges
        self.vector_collector = vectors
        self.model_switcher = ModelSwitcher(engine, models)
        self.decision_maker = DecisionMaker(engine, policy)
        self.control_records = ControlRecords(engine, self.decision_maker, self.model_switcher, edges)
        places = RawEncoder.slots_for(self.engine.settings.capacity)
        self._encoder = RawEncoder(encoder, decode, places, compiled_elsewhere=compiled_elsewhere)

    def apply(self, batch: RecordBatch) -> AppliedBatch:
        """Apply a batch; records of different kinds keep their order."""
        applied = AppliedBatch([], [], [], 0, 0, [])
        first, most, event = 0, self.engine.settings.capacity, int(RecordKind.EVENT)
        for position, record in enumerate(batch.records):
            if record.kind != event:
                applied = self._apply_events(batch, first, position, applied)
                self._apply_non_event(batch.partition, batch.base_offset + position, record, applied)
                first = position + 1
            elif position - first == most:  # each may be another agent
                applied = self._apply_events(batch, first, position, applied)
                first = position
        return self._apply_events(batch, first, len(batch.records), applied)

    def _apply_events(self, batch: RecordBatch, first: int, end: int, applied: AppliedBatch) -> AppliedBatch:
        """Apply a run of events, records[first:end]: drop duplicates, read, score, decide."""
        if first == end:
            return applied
        run = batch.records[first:end]
        _, hashes, arrived, payloads, *_ = zip(*run, strict=True)
        offsets = np.arange(batch.base_offset + first, batch.base_offset + end, dtype=np.int64)
        seen = self.duplicate_window.mark(np.array(hashes, np.uint64), offsets)
        new = np.flatnonzero(~seen)
        encoded = self._encoder.encode(payloads if len(new) == len(run) else [payloads[row] for row in new.tolist()])
        for position, error in encoded.refused:
            row = int(new[position])
            applied.dead_letters.append(dead_letter_of_record(batch.partition, int(offsets[row]), run[row], error))
        rows, columns, slots = self._refuse_impostors(batch, first, new[encoded.positions], encoded.columns, applied)
        if len(rows):
            received = np.array(arrived, np.int64)[rows]
            # A wrong or false clock must neither let risk decay nor make the agent's later events late. History
            # without an arrival (0) is taken as it is.
            latest = np.where(received > 0, received + _MAX_AHEAD_MS, _LAST_MS)
            clamped = columns.with_times(np.minimum(columns.time_ms, latest))
            scored = self.engine.score(clamped, received, slots)
            applied.scored.append((scored, offsets[rows]))
            if self.edge_collector is not None:
                self.edge_collector.collect(scored.columns, scored.risk_scores)
            if self.vector_collector is not None:
                kept = payloads if len(rows) == len(run) else [payloads[row] for row in rows.tolist()]
                self.vector_collector.collect(scored, offsets[rows], kept, self.engine.model.version)
            applied.decisions.extend(
                self.decision_maker.decide_scored(batch.partition, scored, offsets[rows], received)
            )
        return applied._replace(duplicates=applied.duplicates + len(run) - len(new), events=applied.events + len(rows))

    def _refuse_impostors(
        self, batch: RecordBatch, first: int, rows: npt.NDArray[np.int64], columns: EventColumns, applied: AppliedBatch
    ) -> tuple[npt.NDArray[np.int64], EventColumns, SlotIndices]:
        """Return rows (of records[first:]), columns and slots without agents whose key belongs to another agent."""
        slots = self.engine.admit(columns)
        impostors = self.engine.find_impostors(columns, slots)
        if not impostors.any():
            return rows, columns, slots
        for impostor in np.flatnonzero(impostors).tolist():
            position, event = first + int(rows[impostor]), columns.events[impostor]
            record, offset = batch.records[position], batch.base_offset + position
            error = MalformedEvent("another agent has this agent's key; nothing is scored under it", "$.agent.id")
            applied.dead_letters.append(dead_letter_of_record(batch.partition, offset, record, error))
            applied.identity_conflicts.append(
                IdentityConflict(event.tenant or "", event.agent.issuer or "", event.agent.id, record.received_ms)
            )
        kept = np.flatnonzero(~impostors)
        return rows[kept], columns.take(kept), slots[kept]

    def _apply_non_event(self, partition: int, offset: int, record: Record, applied: AppliedBatch) -> None:
        if record.kind == RecordKind.DEAD:
            applied.dead_letters.append(dead_letter_of_refused_input(partition, offset, record))
            return
        if record.kind == RecordKind.ERASED:
            self.duplicate_window.mark(np.array([record.id_hash], np.uint64), np.array([offset], np.int64))
            return
        try:
            if record.kind in (RecordKind.CONTROL, RecordKind.FORGET):
                applied.decisions.extend(self.control_records.apply(partition, offset, record))
            elif record.kind != RecordKind.TICK:
                raise MalformedEvent(f"record of unknown kind {record.kind}: written by a newer version")
            elif (at_ms := int.from_bytes(record.payload, "little")) > LATEST_MS:
                raise MalformedEvent("a tick whose time is after the year 9999: not written by us")
            else:
                self.apply_tick(RecordMoment(partition, offset, at_ms), applied)
        except MalformedEvent as error:
            applied.dead_letters.append(dead_letter_of_record(partition, offset, record, error))

    def apply_tick(self, moment: RecordMoment, applied: AppliedBatch) -> None:
        """Let time pass for every agent whose level is due to change, those in memory first."""
        self.engine.feedback_rules.expire(moment.at_ms, moment.offset)
        applied.decisions.extend(self.decision_maker.decide_time_passed(self.engine.due_slots(moment.at_ms), moment))
        for slots in self.engine.agent_states.load_due_agents(moment.at_ms):
            applied.decisions.extend(self.decision_maker.decide_time_passed(slots, moment))


# The archive of feature vectors gets frames after their commit, so that it holds nothing that the store lacks. Another
# process writes the files.


class VectorFrames(NamedTuple):
    """Packed frames, and how many events they hold."""

    frames: Sequence[bytes]
    events: int


class VectorCollector:
    """Packs batches of one partition until they are taken."""

    def __init__(self, partition: int = 0) -> None:
        self._partition = partition
        self._frames: list[bytes] = []
        self._events = 0

    def collect(
        self, scored: ScoredBatch, offsets: npt.NDArray[np.int64], payloads: Sequence[bytes], model_version: str
    ) -> None:
        """Add a batch; *payloads* are its events as they were logged."""
        self._frames.append(
            encode_frame(
                VectorFrame(
                    self._partition,
                    model_version,
                    FEATURE_NAMES,
                    offsets,
                    scored.vectors.astype(np.float32),
                    scored.anomaly,
                    scored.p_values,
                    scored.risk_scores,
                    scored.levels[:, 1],
                    payloads,
                )
            )
        )
        self._events += len(offsets)

    def drain(self) -> VectorFrames:
        """Take what was collected since the last call."""
        taken, self._frames, self._events = VectorFrames(self._frames, self._events), [], 0
        return taken


class StageMetrics:
    """Seconds by stage and counts by name since the start."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = self._monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += self._monotonic() - start

    def count_batch(self, applied: AppliedBatch) -> None:
        self.counts["events"] += applied.events
        self.counts["duplicates"] += applied.duplicates
        self.counts["dead_letters"] += len(applied.dead_letters)
        self.counts["late_events"] += sum(scored.late_events for scored, _ in applied.scored)
        self.counts["out_of_order_events"] += sum(scored.out_of_order_events for scored, _ in applied.scored)
        self.counts["unordered_events"] += sum(scored.unordered_events for scored, _ in applied.scored)
        self.counts["decisions"] += len(applied.decisions)
        self.counts["identity_conflicts"] += len(applied.identity_conflicts)
