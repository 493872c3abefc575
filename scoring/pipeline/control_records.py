"""Control records of the log: a release, feedback, another model, an erasure. Beside events and ticks nothing else
moves state.

A command is a record among the events, so that a replay, a restart and an undisturbed run meet it at the same place.
"""

from __future__ import annotations

import msgspec
import numpy as np

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.record_keys import partition_of
from trustwatch.ingest.source import Record, RecordKind

from ..engine import risk_levels
from ..engine.composites import reset_decaying_state, reset_session_strangeness
from ..engine.decision_maker import DecisionMaker, RecordMoment
from ..engine.delegation import EdgeCollector
from ..engine.engine import Engine
from ..engine.explanations import sanitize_text
from ..records.agents import AgentIdentity, ReleaseAgent
from ..records.decisions import Decision, RiskReason
from ..records.erasures import EraseCommand, PartitionErasure
from ..records.feedback import AdoptFeedbackRule, FeedbackRule, RevokeFeedbackRule
from ..records.models import decode_model_switch
from .model_switch import ModelSwitcher

_command_decoder: msgspec.json.Decoder[ReleaseAgent | AdoptFeedbackRule | RevokeFeedbackRule] = msgspec.json.Decoder(
    ReleaseAgent | AdoptFeedbackRule | RevokeFeedbackRule
)
_erasure_decoder = msgspec.json.Decoder(EraseCommand)


class ControlRecords:
    """Applies the control records of one partition."""

    def __init__(
        self, engine: Engine, decider: DecisionMaker, models: ModelSwitcher, edges: EdgeCollector | None
    ) -> None:
        self._engine = engine
        self._decider = decider
        self._models = models
        self._edges = edges
        self.partition_count = 1
        """Number of partitions of the log: an agent is erased in the partition that has its state."""
        self.erasures: list[PartitionErasure] = []
        """Erasures that were met since the last commit; the pipeline takes them."""

    def apply(self, partition: int, offset: int, record: Record) -> list[Decision]:
        """Apply a CONTROL or FORGET record; return the decisions that follow from it.

        Raises MalformedEvent if it is no order, or none that can be carried out here; nothing has changed. Raises
        ModelError if the model to switch to cannot be used: the worker cannot continue.
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
        try:
            command = _command_decoder.decode(payload)
            name = self._full_name(command if isinstance(command, ReleaseAgent) else command.rule)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise MalformedEvent(f"not a command: {error}") from error
        if isinstance(command, ReleaseAgent):
            return self._release(name, command, moment)
        if isinstance(command, RevokeFeedbackRule):
            self._engine.feedback_rules.revoke(command.rule, moment.offset)
        elif self._engine.feedback_rules.adopt(command.rule, moment.offset, moment.at_ms) and command.withdraw > 0.0:
            return self._withdraw_evidence(name, command, moment)
        return []

    def _full_name(self, named: ReleaseAgent | FeedbackRule) -> AgentIdentity | None:
        """Full name of the agent that a command is about; None = it is not known. Raises ValueError, OverflowError."""
        if named.agent_id:
            return named.tenant, named.issuer, named.agent_id
        return self._engine.agent_states.find_unkeyed(int(np.uint64(int(named.key))))  # a record of 0.1

    def _release(self, name: AgentIdentity | None, command: ReleaseAgent, moment: RecordMoment) -> list[Decision]:
        """Drop the evidence against an agent."""
        engine = self._engine
        slot = None if name is None else engine.agent_states.find_slot(name)
        if slot is None:
            return []
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

    def _withdraw_evidence(
        self, name: AgentIdentity | None, command: AdoptFeedbackRule, moment: RecordMoment
    ) -> list[Decision]:
        """Take back what led to a decision that a person calls a false positive."""
        engine = self._engine
        slot = None if name is None else engine.agent_states.find_slot(name)
        if slot is None:
            return []
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
        """Erase an agent or a name from the state; the commit says so, and then what was written is erased."""
        try:
            order = _erasure_decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise MalformedEvent(f"nobody to forget: {error}") from error
        subject = order.subject
        if not subject.name:
            raise MalformedEvent("nobody to forget: the name is empty")
        ours = subject.kind == "agent" and self._owns_agent(subject.partition_key, moment.partition)
        self._engine.agent_states.erase(subject, ours=ours)
        self._engine.feedback_rules.erase(subject)
        self.erasures.append(PartitionErasure(order.erasure_id, subject, moment.offset, moment.at_ms, ours))
        if self._edges is not None:
            self._edges.clear()

    def _owns_agent(self, partition_key: bytes, partition: int) -> bool:
        return self.partition_count == 1 or partition_of(partition_key, self.partition_count) == partition
