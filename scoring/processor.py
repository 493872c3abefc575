"""The processor: raw records in, decisions out. Everything that moves state is a record, so a replay sees the same.

`Processor` has no store and no clock: the live pipeline (`pipeline.py`) adds transactions, `replay` adds nothing.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..ingest.columns import ColumnEncoder, EventColumns
from ..ingest.dedup import DuplicateWindow
from ..ingest.errors import MalformedEvent
from ..ingest.events import decode_event
from ..ingest.features.slots import Keys, Slots
from ..ingest.routing import partition_of
from ..ingest.scan import Decode, RawEncoder
from ..ingest.source import Kind, Record, RecordBatch
from . import risk
from .delegation import EdgeCollector
from .engine import NOTABLE, Scored
from .feedback.composites import begin_anew, forget
from .feedback.values import Adopt, Revoke
from .lifecycle.force import Chosen, ModelsInForce, SwitchModel, as_switch
from .lifecycle.records import ModelSwitch
from .policy import LivePolicy
from .privacy.forgetting import Forget
from .privacy.records import Met
from .reasons import plain
from .records import DeadLetter, Decision, Position, Reason, RiskLevel, record_id
from .residence import Note, Residence, encode_reasons
from .vectors import VectorCollector

_REASONS_HALF_LIFE_MS = 600_000.0
_SHOWN_FROM = 0.2
_MOST_AHEAD_MS = 300_000


class Release(msgspec.Struct, tag_field="command", tag="release", forbid_unknown_fields=True):
    """A person vouches for an agent. `key` is its agent key in decimal (JSON numbers end at 53 bits)."""

    key: str
    by: str
    note: str = ""


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
        self, residence: Residence, encoder: ColumnEncoder, window: DuplicateWindow, context: Context,
        decode: Decode = decode_event, edges: EdgeCollector | None = None,
        models: ModelsInForce | None = None, vectors: VectorCollector | None = None,
    ) -> None:  # fmt: skip
        self.residence = residence
        self.engine = residence.engine
        self.window = window
        self.context = context
        self.edges = edges
        self.models = models
        self.in_force = ("", "")
        """Version and digest of what scores, once it was resumed."""
        self.switches: list[ModelSwitch] = []
        """Models that came into force since the last commit; the pipeline takes them."""
        self.vectors = vectors
        self.partitions = 1
        """Of the log: an agent is forgotten in the partition that has its state."""
        self.forgets: list[Met] = []
        """Orders to forget that were met since the last commit; the pipeline takes them."""
        self._encoder = RawEncoder(encoder, decode, RawEncoder.places_for(self.engine.settings.capacity))
        self._command: msgspec.json.Decoder[Release | Adopt | Revoke] = msgspec.json.Decoder(Release | Adopt | Revoke)

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
            applied.dead.append(_dead(batch.partition, int(offsets[row]), run[row], error))
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
            self._decide(batch.partition, scored, offsets[rows], received, applied)
        return applied._replace(duplicates=applied.duplicates + len(run) - len(new), events=applied.events + len(rows))

    def _decide(self, partition: int, scored: Scored, offsets: Any, received: Any, applied: Applied) -> None:
        """Keep the reasons of notable rows, and make a decision of every change of level."""
        changed = set(scored.changed)
        rows = self._rows_to_tell(scored, changed)
        levels = {row: (int(scored.levels[row, 0]), int(scored.levels[row, 1])) for row in rows}
        explained = [row for row in rows if levels[row][1] >= levels[row][0] and _worth_reasons(*levels[row])]
        found = dict(zip(explained, self.engine.explainer.reasons(scored, explained), strict=True))
        for row in rows:
            slot, (previous, level) = int(scored.slots[row]), levels[row]
            rising = level > previous and level >= RiskLevel.MEDIUM
            reasons = found.get(row, ())
            told = reasons if rising or level == previous else (_calmed(previous, level),)
            counterfactual = self.engine.explainer.counterfactual(scored, row, reasons) if rising else ""
            decision_id = self.residence.note(slot).decision_id
            if row in changed:
                at_ms, offset = int(received[row]), int(offsets[row])
                agent_type = self._type_of(slot, scored, row)
                decision = self._decision(slot, agent_type, partition, offset, at_ms, previous, level, "event", told)
                event = scored.columns.events[row]
                decision = msgspec.structs.replace(
                    decision, event_id=event.id or "",
                    event_time_ms=int(scored.columns.time_ms[row]),
                    risk_score=float(scored.risk_scores[row]), confidence=float(scored.risk[row, risk.CONFIDENCE]),
                    anomaly_score=float(scored.anomaly[row]),
                    p_value=float(scored.p_values[row]), counterfactual=counterfactual,
                    feature_vector=self.engine.explainer.vector(scored, row),
                    evidence=self.engine.explainer.evidence(slot, scored, row),
                )  # fmt: skip
                applied.decisions.append(decision)
                decision_id = decision.decision_id
            self._keep(slot, decision_id, told, counterfactual, scored, row, row in changed)

    def _rows_to_tell(self, scored: Scored, changed: set[int]) -> list[int]:
        """Changes of level, and the notable row of each agent whose reasons will stand at the end of the batch.

        Explaining a row costs a hundred times its score, and an agent under attack has many notable rows in a batch.
        """
        notable = (scored.evidence >= NOTABLE) & (scored.risk_scores >= _SHOWN_FROM)
        told: dict[int, tuple[float, int]] = {}
        last: dict[int, int] = {}
        for row in sorted(changed | set(np.flatnonzero(notable).tolist())):
            slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
            state = self.engine.risk[slot]
            old, since = told.get(slot) or (float(state["told"]), int(state["told_ms"]))
            if row in changed or weight >= _faded(old, since, at_ms):
                told[slot] = weight, at_ms
                last[slot] = row
        return sorted(changed | set(last.values()))

    def _type_of(self, slot: int, scored: Scored, row: int) -> str:
        """The agent's type when the row's event happened, however many it took in the batch."""
        types = [name for first, name in scored.types.get(slot, ()) if first <= row]
        return types[-1] if types else self.engine.agents.types[slot]

    def _keep(
        self, slot: int, decision_id: str, reasons: tuple[Reason, ...], counterfactual: str, scored: Scored, row: int,
        force: bool,
    ) -> None:  # fmt: skip
        """Remember the reasons of the strongest recent event; older ones fade."""
        state, at_ms, weight = self.engine.risk[slot], int(scored.columns.time_ms[row]), float(scored.evidence[row])
        if force or weight >= _faded(float(state["told"]), int(state["told_ms"]), at_ms):
            self._say(slot, Note(decision_id, encode_reasons(reasons), counterfactual), weight, at_ms)

    def _say(self, slot: int, note: Note, weight: float, at_ms: int) -> None:
        """What is said about an agent from now on. The weight is kept with its risk: a restart goes on alike."""
        self.residence.set_note(slot, note)
        state = self.engine.risk[slot]
        state["told"], state["told_ms"] = weight, at_ms

    def _apply_other(self, partition: int, offset: int, record: Record, applied: Applied) -> None:
        if record.kind == Kind.TICK:
            self.tick(partition, offset, int.from_bytes(record.payload, "little"), applied)
        elif record.kind == Kind.DEAD:
            applied.dead.append(_refused(partition, offset, record))
        elif record.kind == Kind.CONTROL and (wish := as_switch(record.payload)) is not None:
            self._switch(wish, partition, offset, record, applied)
        elif record.kind == Kind.CONTROL:
            self._apply_command(partition, offset, record, applied)
        elif record.kind == Kind.ERASED:
            self.window.mark(np.array([record.id_hash], np.uint64), np.array([offset], np.int64))
        elif record.kind == Kind.FORGET:
            self._apply_forget(partition, offset, record, applied)
        else:
            error = MalformedEvent(f"record of unknown kind {record.kind}: written by a newer version")
            applied.dead.append(_dead(partition, offset, record, error))

    def resume(self, last: ModelSwitch | None, position: Position) -> None:
        """Score with what is in force at *position*, behind the switch *last*. Raises ModelError."""
        if self.models is None:
            return
        chosen = self.models.choose(last)
        if (chosen.version, chosen.digest) != self.in_force:
            self.residence.switch(self.models.load(chosen.version, chosen.digest))
            self.in_force = (chosen.version, chosen.digest)
        if chosen.anew or (last is not None and last.partition != position.partition):
            self.switches.append(self.models.switch((position.partition, position.epoch, position.offset), chosen))

    def _switch(self, wish: SwitchModel, partition: int, offset: int, record: Record, applied: Applied) -> None:
        """Another model from the next record on."""
        if self.models is None:
            error = MalformedEvent(f"this pipeline can not switch to model {wish.version!r}: it was given one alone")
            applied.dead.append(_dead(partition, offset, record, error))
            return
        if (wish.version, wish.digest) == self.in_force:
            return
        self.residence.switch(self.models.successor(wish, self.engine.model))
        self.in_force = (wish.version, wish.digest)
        chosen = Chosen(*self.in_force, True)
        self.switches.append(self.models.switch((partition, 0, offset + 1), chosen, record.received_ms))

    def tick(self, partition: int, offset: int, now_ms: int, applied: Applied) -> None:
        """Time passes for every agent whose level is due to change, those in memory first."""
        self.engine.feedback.expire(now_ms, offset)
        self._tick_page(self.engine.due(now_ms), partition, offset, now_ms, applied)
        for slots in self.residence.due_elsewhere(now_ms):
            self._tick_page(slots, partition, offset, now_ms, applied)

    def _tick_page(self, slots: Slots, partition: int, offset: int, now_ms: int, applied: Applied) -> None:
        levels = self.engine.tick(slots, now_ms)
        for slot, (previous, level) in zip(slots.tolist(), levels.tolist(), strict=True):
            if previous != level:
                self._note_decision(slot, partition, offset, now_ms, previous, level, "tick", applied)

    def _apply_command(self, partition: int, offset: int, record: Record, applied: Applied) -> None:
        try:
            command = self._command.decode(record.payload)
            key = np.array([int(command.key if isinstance(command, Release) else command.rule.key)], np.uint64)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            applied.dead.append(_dead(partition, offset, record, MalformedEvent(f"not a command: {error}")))
            return
        if isinstance(command, Revoke):
            self.engine.feedback.revoke(command.rule, offset)
        elif isinstance(command, Release):
            self._apply_release(partition, offset, record.received_ms, key, command, applied)
        elif self.engine.feedback.adopt(command.rule, offset, record.received_ms) and command.withdraw > 0.0:
            self._withdraw(partition, offset, record.received_ms, key, command, applied)

    def _apply_release(
        self, partition: int, offset: int, at_ms: int, key: Keys, command: Release, applied: Applied
    ) -> None:
        slot = int(self.engine.builder.admit(key)[0])
        if self.engine.agents.names[slot] is None:
            return
        state = self.engine.risk[slot]
        previous = int(state["level"])
        risk.release(state, at_ms, self.engine.settings.risk)
        begin_anew(self.engine.builder.state, slot)
        self.engine.dirty[slot] = True
        self.engine.builder.pinned[slot] = False
        level = int(state["level"])
        by, note = plain(command.by), plain(command.note) or "no note"
        reason = Reason("released", "release", by, "", 1.0, f"released by {by}: {note}")
        self._note_decision(slot, partition, offset, at_ms, previous, level, "release", applied, reason)

    def _withdraw(
        self, partition: int, offset: int, at_ms: int, key: Keys, command: Adopt, applied: Applied
    ) -> None:  # fmt: skip
        """Take back what led to a decision that a person calls a false positive."""
        engine = self.engine
        slots = engine.builder.admit(key)
        slot = int(slots[0])
        if engine.agents.names[slot] is None:
            return
        self._tick_page(slots, partition, offset, at_ms, applied)
        previous = int(engine.risk["level"][slot])
        limits = engine.bounds[engine.agents.bounds[slot]]
        risk.withdraw(engine.risk, slot, command.withdraw, limits, engine.settings.risk)
        forget(engine.builder.state, slot)
        engine.dirty[slot] = True
        engine.builder.pinned[slot] = engine.risk["due_ms"][slot] != 0
        level, by = int(engine.risk["level"][slot]), plain(command.by)
        text = f"{by} calls decision {plain(command.decision_id)} a false positive: {plain(command.why)}"
        reason = Reason("feedback", "feedback", by, "", 1.0, text)
        self._note_decision(slot, partition, offset, at_ms, previous, level, "feedback", applied, reason)

    def _apply_forget(self, partition: int, offset: int, record: Record, applied: Applied) -> None:
        try:
            order = _forget.decode(record.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            applied.dead.append(_dead(partition, offset, record, MalformedEvent(f"nobody to forget: {error}")))
            return
        subject = order.subject
        ours = subject.kind == "agent" and self._has(subject.route, partition)
        self.residence.forget(subject, ours=ours)
        self.forgets.append(Met(order.erasure_id, subject, offset, record.received_ms, ours))
        if self.edges is not None:
            self.edges.forget()

    def _has(self, route: bytes, partition: int) -> bool:
        return self.partitions == 1 or partition_of(route, self.partitions) == partition

    def _note_decision(
        self, slot: int, partition: int, offset: int, at_ms: int, previous: int, level: int, cause: str,
        applied: Applied, reason: Reason | None = None,
    ) -> None:  # fmt: skip
        told = (reason or _calmed(previous, level),)
        agent_type = self.engine.agents.types[slot]
        decision = self._decision(slot, agent_type, partition, offset, at_ms, previous, level, cause, told)
        applied.decisions.append(decision)
        self._say(slot, Note(decision.decision_id, encode_reasons(told), ""), 0.0, at_ms)

    def _decision(
        self, slot: int, agent_type: str, partition: int, offset: int, at_ms: int, previous: int, level: int,
        cause: str, reasons: tuple[Reason, ...],
    ) -> Decision:  # fmt: skip
        engine, book = self.engine, self.context.policy.book
        name = engine.agents.names[slot]
        assert name is not None
        state = engine.risk[slot]
        standing = book.standing(name.tenant, name.issuer, name.agent_id, agent_type)
        # Time may have moved the agent's level at this very record, just before: two decisions, two ids.
        apart = (cause,) if cause == "feedback" else ()
        return Decision(
            decision_id=record_id(at_ms, partition, offset, name.key, *apart, order=offset), agent=name,
            agent_type=agent_type,
            decided_ms=at_ms, event_id="", event_time_ms=at_ms, previous_level=previous, level=level,
            risk_score=float(state["score"]), confidence=float(state["confidence"]),
            anomaly_score=float(state["anomaly"]), p_value=max(float(state["p_value"]), 0.0), reasons=reasons,
            counterfactual="", feature_vector={}, evidence=engine.explainer.evidence(slot),
            model_version=engine.model.version, baseline_version=engine.model.baseline_version,
            policy_version=book.version, mode=standing.mode,
            cause=cause, partition=partition, offset=offset,
        )  # fmt: skip


def _worth_reasons(previous: int, level: int) -> bool:
    """Whether a row is told with its features' reasons: a rise that people act on, or no change at all."""
    return level == previous or level >= RiskLevel.MEDIUM


def _faded(weight: float, since_ms: int, at_ms: int) -> float:
    """What the weight of kept reasons is worth later."""
    return weight * float(0.5 ** (max(at_ms - since_ms, 0) / _REASONS_HALF_LIFE_MS))


def _not_ahead(columns: EventColumns, received: Any) -> EventColumns:
    """Events from the future happen when they arrive, give or take some minutes.

    A clock that is wrong, or lies, must neither let risk decay nor make the agent's later events late. History that
    carries no arrival (0) is taken as it is.
    """
    latest = np.where(received > 0, received + _MOST_AHEAD_MS, np.iinfo(np.int64).max)
    time_ms = np.minimum(columns.time_ms, latest)
    return EventColumns(columns.events, columns.names, columns.numbers, columns.codes, time_ms)


def _calmed(previous: int, level: int) -> Reason:
    """Why a level went down, or first became known."""
    before, after = RiskLevel(previous).label, RiskLevel(level).label
    if previous == RiskLevel.CRITICAL:
        text = "the longest hold of a critical agent has ended"
    elif previous < RiskLevel.MEDIUM:
        text = "enough behaviour is known now" if level == RiskLevel.LOW else "too little behaviour is known"
    else:
        text = f"no new evidence; risk decayed from {before} to {after}"
    return Reason("risk_relaxed" if previous > level else "baseline_known", "risk", after, before, 1.0, text)


def _dead(partition: int, offset: int, record: Record, error: MalformedEvent) -> DeadLetter:
    letter_id = record_id(record.received_ms, partition, offset, "dead")
    return DeadLetter(
        letter_id, record.received_ms, "pipeline", error.reason, error.path, record.payload, partition, offset
    )


class Refused(msgspec.Struct):
    """Payload of a DEAD record: an input that the edge refused."""

    letter_id: str
    received_ms: int
    source: str
    reason: str
    path: str
    raw: str  # base64


_forget = msgspec.json.Decoder(Forget)
_refused_decoder = msgspec.json.Decoder(Refused)


def _refused(partition: int, offset: int, record: Record) -> DeadLetter:
    try:
        refused = _refused_decoder.decode(record.payload)
        raw = base64.b64decode(refused.raw)
    except (msgspec.MsgspecError, ValueError) as error:
        return _dead(partition, offset, record, MalformedEvent(f"not a refused input: {error}"))
    return DeadLetter(
        refused.letter_id, refused.received_ms, refused.source, refused.reason, refused.path,
        raw, partition, offset,
    )  # fmt: skip
