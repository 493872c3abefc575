"""The processor: raw records in, decisions out. Everything that moves state is a record, so a replay sees the same.

`Processor` has no store and no clock: the live pipeline (`partition.py`) adds transactions, `replay` adds nothing.
Changes of level become decisions in `engine/decision_maker.py`; control records are applied in `control_records.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

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
from trustwatch.ingest.scan.raw_encoder import EventDecoder, RawEncoder
from trustwatch.ingest.source import Record, RecordBatch, RecordKind

from ..engine.decision_maker import DecisionMaker, RecordMoment
from ..engine.delegation import EdgeCollector
from ..engine.engine import Engine
from ..engine.scored_batch import ScoredBatch
from ..policy.book import LivePolicy
from ..records.agents import IdentityConflict
from ..records.dead_letters import DeadLetter, dead_letter_of_record, dead_letter_of_refused_input
from ..records.decisions import Decision
from ..records.wire_integer import LATEST_MS
from .control_records import ControlRecords
from .model_switch import ActiveModels, ModelSwitcher

_MAX_AHEAD_MS = layout.MOST_DISORDER_MS
"""Of a clock that runs ahead: a longer lead would make events of right clocks late, and take their pace from them."""
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
        """Chooses the model that judges, and keeps the switches that were met."""
        self.decision_maker = DecisionMaker(engine, policy)
        self.control_records = ControlRecords(engine, self.decision_maker, self.model_switcher, edges)
        """Applies control records, and keeps what the pipeline has to commit of them."""
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
            elif position - first == most:  # each may be an agent of its own
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
            scored = self.engine.score(_clamp_to_arrival(columns, received), received, slots)
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
        """Rows (of records[first:]) and columns without those of agents whose key is another agent's; and the slots of
        all others."""
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
        """Apply a record that is no event."""
        if record.kind == RecordKind.TICK:
            self._apply_time(partition, offset, record, applied)
        elif record.kind == RecordKind.DEAD:
            applied.dead_letters.append(dead_letter_of_refused_input(partition, offset, record))
        elif record.kind == RecordKind.ERASED:
            self.duplicate_window.mark(np.array([record.id_hash], np.uint64), np.array([offset], np.int64))
        elif record.kind in (RecordKind.CONTROL, RecordKind.FORGET):
            self._apply_control(partition, offset, record, applied)
        else:
            error = MalformedEvent(f"record of unknown kind {record.kind}: written by a newer version")
            applied.dead_letters.append(dead_letter_of_record(partition, offset, record, error))

    def _apply_control(self, partition: int, offset: int, record: Record, applied: AppliedBatch) -> None:
        try:
            applied.decisions.extend(self.control_records.apply(partition, offset, record))
        except MalformedEvent as error:
            applied.dead_letters.append(dead_letter_of_record(partition, offset, record, error))

    def _apply_time(self, partition: int, offset: int, record: Record, applied: AppliedBatch) -> None:
        at_ms = int.from_bytes(record.payload, "little")
        if at_ms <= LATEST_MS:
            self.apply_tick(RecordMoment(partition, offset, at_ms), applied)
            return
        error = MalformedEvent("a tick of no time: not written by us")
        applied.dead_letters.append(dead_letter_of_record(partition, offset, record, error))

    def apply_tick(self, moment: RecordMoment, applied: AppliedBatch) -> None:
        """Let time pass for every agent whose level is due to change, those in memory first."""
        self.engine.feedback_rules.expire(moment.at_ms, moment.offset)
        applied.decisions.extend(self.decision_maker.decide_time_passed(self.engine.due_slots(moment.at_ms), moment))
        for slots in self.engine.agent_states.load_due_agents(moment.at_ms):
            applied.decisions.extend(self.decision_maker.decide_time_passed(slots, moment))


def _clamp_to_arrival(columns: EventColumns, received: Any) -> EventColumns:
    """Clamp event times to at most a minute after their arrival.

    A clock that is wrong, or lies, must neither let risk decay nor make the agent's later events late. History that
    carries no arrival (0) is taken as it is.
    """
    latest = np.where(received > 0, received + _MAX_AHEAD_MS, _LAST_MS)
    return columns.with_times(np.minimum(columns.time_ms, latest))


# The archive of feature vectors gets its frames after their commit, so that it has nothing which the store lacks. They
# cost the pipeline a copy of its matrices and records; another process makes files of them.


class VectorFrames(NamedTuple):
    """Packed frames, and how many events they hold."""

    frames: Sequence[bytes]
    events: int


class VectorCollector:
    """Packs the batches of one partition until they are taken."""

    def __init__(self, partition: int = 0) -> None:
        self._partition = partition
        self._frames: list[bytes] = []
        self._events = 0

    def collect(
        self, scored: ScoredBatch, offsets: npt.NDArray[np.int64], payloads: Sequence[bytes], model_version: str
    ) -> None:
        """Take n events that a model version scored, their offsets, int64 (n,), and payloads as they were logged."""
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
        """Take what was collected since the last call; it is forgotten here."""
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
        """Count what a batch did."""
        self.counts["events"] += applied.events
        self.counts["duplicates"] += applied.duplicates
        self.counts["dead_letters"] += len(applied.dead_letters)
        self.counts["late_events"] += sum(scored.late_events for scored, _ in applied.scored)
        self.counts["out_of_order_events"] += sum(scored.out_of_order_events for scored, _ in applied.scored)
        self.counts["unordered_events"] += sum(scored.unordered_events for scored, _ in applied.scored)
        self.counts["decisions"] += len(applied.decisions)
        self.counts["identity_conflicts"] += len(applied.identity_conflicts)
