"""The processor: raw records in, decisions out. Everything that moves state is a record, so a replay sees the same.

`Processor` has no store and no clock: the live pipeline (`pipeline.py`) adds transactions, `replay` adds nothing.
Changes of level become decisions in `deciding.py`; what people and the service order is carried out in `orders.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ingest.columns import ColumnEncoder, EventColumns
from ..ingest.dedup import DuplicateWindow
from ..ingest.errors import MalformedEvent
from ..ingest.events import decode_event
from ..ingest.scan import Decode, RawEncoder
from ..ingest.source import Kind, Record, RecordBatch
from .dead_letters import dead_letter, refused_at_the_door
from .deciding import Decider, Moment
from .delegation import EdgeCollector
from .engine import Scored
from .lifecycle.force import ModelsInForce
from .lifecycle.succession import Succession
from .orders import Orders
from .policy import LivePolicy
from .records import DeadLetter, Decision
from .residence import Residence
from .vectors import VectorCollector

_MOST_AHEAD_MS = 300_000


class Applied(NamedTuple):
    """What a batch of records did."""

    scored: list[tuple[Scored, np.ndarray[tuple[int], np.dtype[np.int64]]]]  # with the offsets of the rows
    decisions: list[Decision]
    dead: list[DeadLetter]
    duplicates: int
    events: int


class Context(NamedTuple):
    """Names that decisions carry."""

    policy: LivePolicy


class Processor:
    """Applies records in order.

    Args:
        residence: engine and resident agents.
        encoder: turns events into columns under the model's salt.
        window: recognises events that came before.
        context: policy and modes.
        decode: how an event record is read; history files are read more leniently than the door. What `decode_event`
            accepts it must read as the same event (see `RawEncoder`).
        edges: picks out who had to do with whom; None where nobody writes it.
        models: other versions, for commands to switch; None where there is one model alone.
        vectors: packs what was computed, for the archive; None where nobody keeps it.
    """

    def __init__(
        self,
        residence: Residence,
        encoder: ColumnEncoder,
        window: DuplicateWindow,
        context: Context,
        decode: Decode = decode_event,
        edges: EdgeCollector | None = None,
        models: ModelsInForce | None = None,
        vectors: VectorCollector | None = None,
    ) -> None:
        self.residence = residence
        self.engine = residence.engine
        self.window = window
        self.edges = edges
        self.vectors = vectors
        self.models = Succession(residence, models)
        """Which model judges, and the switches that were met."""
        self.decider = Decider(residence, context.policy)
        self.orders = Orders(residence, self.decider, self.models, edges)
        """Carries out what is no event, and keeps what the pipeline has to commit of it."""
        self._encoder = RawEncoder(encoder, decode, RawEncoder.places_for(self.engine.settings.capacity))

    def apply(self, batch: RecordBatch) -> Applied:
        """Apply a batch; records of different kinds keep their order."""
        applied = Applied([], [], [], 0, 0)
        first, most, event = 0, self.engine.settings.capacity, int(Kind.EVENT)
        for position, record in enumerate(batch.records):
            if record.kind != event:
                applied = self._apply_events(batch, first, position, applied)
                self._apply_other(batch.partition, batch.base_offset + position, record, applied)
                first = position + 1
            elif position - first == most:  # each may be an agent of its own
                applied = self._apply_events(batch, first, position, applied)
                first = position
        return self._apply_events(batch, first, len(batch.records), applied)

    def _apply_events(self, batch: RecordBatch, first: int, end: int, applied: Applied) -> Applied:
        """A run of events, records[first:end]: drop duplicates, read, score, decide."""
        if first == end:
            return applied
        run = batch.records[first:end]
        _, hashes, arrived, payloads, *_ = zip(*run, strict=True)
        offsets = np.arange(batch.base_offset + first, batch.base_offset + end, dtype=np.int64)
        seen = self.window.mark(np.array(hashes, np.uint64), offsets)
        new = np.flatnonzero(~seen)
        encoded = self._encoder.encode(payloads if len(new) == len(run) else [payloads[row] for row in new.tolist()])
        for position, error in encoded.refused:
            row = int(new[position])
            applied.dead.append(dead_letter(batch.partition, int(offsets[row]), run[row], error))
        rows = new[encoded.positions]
        if len(rows):
            received = np.array(arrived, np.int64)[rows]
            scored = self.engine.score(_not_ahead(encoded.columns, received), received)
            applied.scored.append((scored, offsets[rows]))
            if self.edges is not None:
                self.edges.see(scored.columns, scored.risk_scores)
            if self.vectors is not None:
                kept = payloads if len(rows) == len(run) else [payloads[row] for row in rows.tolist()]
                self.vectors.see(scored, offsets[rows], kept, self.engine.model.version)
            applied.decisions.extend(self.decider.scored(batch.partition, scored, offsets[rows], received))
        return applied._replace(duplicates=applied.duplicates + len(run) - len(new), events=applied.events + len(rows))

    def _apply_other(self, partition: int, offset: int, record: Record, applied: Applied) -> None:
        """A record that is no event."""
        if record.kind == Kind.TICK:
            self.tick(Moment(partition, offset, int.from_bytes(record.payload, "little")), applied)
        elif record.kind == Kind.DEAD:
            applied.dead.append(refused_at_the_door(partition, offset, record))
        elif record.kind == Kind.ERASED:
            self.window.mark(np.array([record.id_hash], np.uint64), np.array([offset], np.int64))
        elif record.kind in (Kind.CONTROL, Kind.FORGET):
            self._apply_order(partition, offset, record, applied)
        else:
            error = MalformedEvent(f"record of unknown kind {record.kind}: written by a newer version")
            applied.dead.append(dead_letter(partition, offset, record, error))

    def _apply_order(self, partition: int, offset: int, record: Record, applied: Applied) -> None:
        try:
            applied.decisions.extend(self.orders.carry_out(partition, offset, record))
        except MalformedEvent as error:
            applied.dead.append(dead_letter(partition, offset, record, error))

    def tick(self, moment: Moment, applied: Applied) -> None:
        """Time passes for every agent whose level is due to change, those in memory first."""
        self.engine.feedback.expire(moment.at_ms, moment.offset)
        applied.decisions.extend(self.decider.time_passed(self.engine.due(moment.at_ms), moment))
        for slots in self.residence.due_elsewhere(moment.at_ms):
            applied.decisions.extend(self.decider.time_passed(slots, moment))


def _not_ahead(columns: EventColumns, received: Any) -> EventColumns:
    """Events from the future happen when they arrive, give or take some minutes.

    A clock that is wrong, or lies, must neither let risk decay nor make the agent's later events late. History that
    carries no arrival (0) is taken as it is.
    """
    latest = np.where(received > 0, received + _MOST_AHEAD_MS, np.iinfo(np.int64).max)
    time_ms = np.minimum(columns.time_ms, latest)
    return EventColumns(columns.events, columns.names, columns.numbers, columns.codes, time_ms)
