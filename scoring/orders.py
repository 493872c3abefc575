"""Orders in the log: a release, feedback, another model, an agent to forget. Beside events and
ticks nothing else moves state.

An order is a record among the events, so that a replay, a restart and an undisturbed run meet it at the same place.
"""

from __future__ import annotations

import msgspec
import numpy as np

from ..ingest.errors import MalformedEvent
from ..ingest.features.slots import Keys
from ..ingest.routing import partition_of
from ..ingest.source import Kind, Record
from . import risk
from .deciding import Decider, Moment
from .delegation import EdgeCollector
from .feedback.composites import begin_anew, forget
from .feedback.values import Adopt, Revoke
from .lifecycle.force import as_switch
from .lifecycle.succession import Succession
from .privacy.forgetting import Forget
from .privacy.records import Met
from .reasons import plain
from .records import Decision, Reason
from .residence import Residence


class Release(msgspec.Struct, tag_field="command", tag="release", forbid_unknown_fields=True):
    """A person vouches for an agent. `key` is its agent key in decimal (JSON numbers end at 53 bits)."""

    key: str
    by: str
    note: str = ""


_command: msgspec.json.Decoder[Release | Adopt | Revoke] = msgspec.json.Decoder(Release | Adopt | Revoke)
_forget = msgspec.json.Decoder(Forget)


class Orders:
    """Carries out the orders of one partition.

    Args:
        residence: engine and resident agents.
        decider: makes decisions of what an order changes.
        models: which model judges.
        edges: who had to do with whom, as far as it is collected; None where nobody does.
    """

    def __init__(self, residence: Residence, decider: Decider, models: Succession, edges: EdgeCollector | None) -> None:
        self._residence = residence
        self._engine = residence.engine
        self._decider = decider
        self._models = models
        self._edges = edges
        self.partitions = 1
        """Of the log: an agent is forgotten in the partition that has its state."""
        self.forgets: list[Met] = []
        """Orders to forget that were met since the last commit; the pipeline takes them."""

    def carry_out(self, partition: int, offset: int, record: Record) -> list[Decision]:
        """Do what a CONTROL or FORGET record says; the decisions that follow from it.

        Raises:
            MalformedEvent: it is no order, or none that can be carried out here; nothing has changed.
            ModelError: the model to switch to can not be used: the worker can not go on.
        """
        moment = Moment(partition, offset, record.received_ms)
        if record.kind == Kind.FORGET:
            self._forget(record.payload, moment)
            return []
        if (wish := as_switch(record.payload)) is not None:
            self._models.switch(wish, *moment)
            return []
        return self._command(record.payload, moment)

    def _command(self, payload: bytes, moment: Moment) -> list[Decision]:
        """A release, a rule of feedback that holds from here on, or one that holds no more."""
        try:
            command = _command.decode(payload)
            key = np.array([int(command.key if isinstance(command, Release) else command.rule.key)], np.uint64)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise MalformedEvent(f"not a command: {error}") from error
        if isinstance(command, Release):
            return self._release(key, command, moment)
        if isinstance(command, Revoke):
            self._engine.feedback.revoke(command.rule, moment.offset)
        elif self._engine.feedback.adopt(command.rule, moment.offset, moment.at_ms) and command.withdraw > 0.0:
            return self._withdraw(key, command, moment)
        return []

    def _release(self, key: Keys, command: Release, moment: Moment) -> list[Decision]:
        """Drop the evidence against an agent."""
        engine = self._engine
        slot = int(engine.builder.admit(key)[0])
        if engine.agents.names[slot] is None:
            return []
        state = engine.risk[slot]
        previous = int(state["level"])
        risk.release(state, moment.at_ms, engine.settings.risk)
        begin_anew(engine.builder.state, slot)
        engine.dirty[slot] = True
        engine.builder.pinned[slot] = False
        level = int(state["level"])
        by, note = plain(command.by), plain(command.note) or "no note"
        reason = Reason("released", "release", by, "", 1.0, f"released by {by}: {note}")
        return [self._decider.moved(slot, moment, previous, level, "release", reason)]

    def _withdraw(self, key: Keys, command: Adopt, moment: Moment) -> list[Decision]:
        """Take back what led to a decision that a person calls a false positive."""
        engine = self._engine
        slots = engine.builder.admit(key)
        slot = int(slots[0])
        if engine.agents.names[slot] is None:
            return []
        decisions = self._decider.time_passed(slots, moment)
        previous = int(engine.risk["level"][slot])
        limits = engine.bounds[engine.agents.bounds[slot]]
        risk.withdraw(engine.risk, slot, command.withdraw, limits, engine.settings.risk)
        forget(engine.builder.state, slot)
        engine.dirty[slot] = True
        engine.builder.pinned[slot] = engine.risk["due_ms"][slot] != 0
        level, by = int(engine.risk["level"][slot]), plain(command.by)
        text = f"{by} calls decision {plain(command.decision_id)} a false positive: {plain(command.why)}"
        reason = Reason("feedback", "feedback", by, "", 1.0, text)
        return [*decisions, self._decider.moved(slot, moment, previous, level, "feedback", reason)]

    def _forget(self, payload: bytes, moment: Moment) -> None:
        """An agent or a name leaves the state; the commit says so, and then what was written is erased."""
        try:
            order = _forget.decode(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise MalformedEvent(f"nobody to forget: {error}") from error
        subject = order.subject
        ours = subject.kind == "agent" and self._has(subject.route, moment.partition)
        self._residence.forget(subject, ours=ours)
        self.forgets.append(Met(order.erasure_id, subject, moment.offset, moment.at_ms, ours))
        if self._edges is not None:
            self._edges.forget()

    def _has(self, route: bytes, partition: int) -> bool:
        return self.partitions == 1 or partition_of(route, self.partitions) == partition
