"""Plain values of feedback. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.described import AgentType, DecisionId, Level, member

from .agents import AgentIdentity, AgentName, WireInteger

FeedbackVerdict = Literal["false_positive", "true_positive"]
RuleScopeKind = Literal["agent", "peer_group"]
FeedbackAction = Literal["adopted", "noted", "revoked", "expired"]
FeedbackState = Literal["adopting", "active", "noted", "revoking", "revoked", "expired"]
"""`adopting` and `revoking`: written, but not yet in every event log it concerns. `noted` is a label without a rule."""

OPEN_FEEDBACK_STATES: frozenset[str] = frozenset({"adopting", "active", "revoking"})
"""States with an active rule, or one that is being added or removed."""

FeedbackId = Annotated[str, member("id of the feedback", "01KAW4AD1JQ4V1S0Z3Y8M4C2QK")]


class FeedbackRule(msgspec.Struct, frozen=True):
    """A rule for the engine: in matching events the named features count as normal.

    It is in control records, and stored with what it matched, so it is self-contained.

    Attributes:
        key: `identities.unkeyed_agent_key` in decimal, of rules of 0.1, which do not name the agent; else "".
        features: names of features; None = all but those of hard signals.
        resource: target or resource id that an event must name; None = any.
        expires_ms: it holds for events that happened, and arrived, before.
        issuer, agent_id: with the tenant, the agent of the decision that was marked.
    """

    rule_id: str
    kind: RuleScopeKind
    key: str
    tenant: str
    agent_type: str
    features: tuple[str, ...] | None
    resource: str | None
    expires_ms: WireInteger
    issuer: str = ""
    agent_id: str = ""

    @property
    def agent_identity(self) -> AgentIdentity | None:
        """Tenant, issuer and id of its agent; None in rules of 0.1."""
        return (self.tenant, self.issuer, self.agent_id) if self.agent_id else None


class AdoptFeedbackRule(msgspec.Struct, tag_field="command", tag="feedback.adopt", forbid_unknown_fields=True):
    """Command: apply a rule in the partition, from this record's offset on. Repeated, it changes nothing.

    Attributes:
        withdraw: evidence of the agent that is withdrawn; 0 in the copies for other partitions than the agent's.
        decision_id: the decision that was marked.
    """

    rule: FeedbackRule
    by: str
    why: str
    withdraw: float = 0.0
    decision_id: str = ""


class RevokeFeedbackRule(msgspec.Struct, tag_field="command", tag="feedback.revoke", forbid_unknown_fields=True):
    """Command: end a rule in the partition for good, from this record's offset on."""

    rule: FeedbackRule
    by: str
    why: str


class PartitionRule(msgspec.Struct, frozen=True):
    """One rule in one partition, written with the partition's state.

    Attributes:
        epoch, from_offset: position of the record that added it.
        until_offset: offset of the record that ended it; -1 = it is active.
        matched: events that it matched.
        last_ms: event time of the last of them; 0 = none.
    """

    rule: FeedbackRule
    partition: int
    epoch: int
    from_offset: int
    until_offset: int
    matched: int
    last_ms: int


class Feedback(msgspec.Struct, frozen=True):
    """A person's judgement on a decision, and the rule that follows from it, if any.

    Attributes:
        agent, agent_type, event_id, event_time_ms, level: of the decision.
        withdraw: evidence that was withdrawn from the agent.
        updated_ms: rises with every change.
    """

    feedback_id: FeedbackId
    verdict: Annotated[FeedbackVerdict, member("whether the decision was right", "false_positive")]
    status: Annotated[FeedbackState, member("`noted`: a label without a rule; `adopting`, `revoking`: on its way")]
    decision_id: DecisionId
    agent: AgentName
    agent_type: AgentType
    kind: Annotated[RuleScopeKind, member("scope of the rule: the decision's agent, or all of its type", "agent")]
    features: Annotated[tuple[str, ...] | None, member("features; null = all but hard signals", ["resource_surprise"])]
    resource: Annotated[str | None, member("target or resource id of events; null for any", "acct-9001")]
    reason: Annotated[str, member("reason that its author gave", "a new supplier")]
    author: Annotated[str, member("who gave it", "analyst")]
    created_ms: Annotated[int, member("when it was given")]
    expires_ms: Annotated[int, member("end of the rule; null = a label, which holds until it is revoked", null=True)]
    preview_id: Annotated[str, member("preview that was shown, if any", "01KAW4BD1JQ4V1S0Z3Y8M4C2QK", null=True)]
    unseen: Annotated[bool, member("whether it was adopted without history for a preview")]
    event_id: str
    event_time_ms: int
    level: Annotated[Level, member("level of the decision", "high")]
    from_ms: Annotated[int, member("start of the events that the label is about")]
    until_ms: Annotated[int, member("end of the events that the label is about")]
    withdraw: float
    revoked_by: Annotated[str, member("who revoked it, if it was revoked", "analyst", null=True)]
    revoked_ms: Annotated[int, member("when it was revoked, if it was", null=True)]
    revoked_why: Annotated[str, member("why it was revoked, if it was", "the supplier was a fraud", null=True)]
    updated_ms: int

    @property
    def rule(self) -> FeedbackRule:
        """The rule for the engine."""
        agent = self.agent
        return FeedbackRule(
            self.feedback_id,
            self.kind,
            "",
            agent.tenant,
            self.agent_type,
            self.features,
            self.resource,
            self.expires_ms,
            agent.issuer,
            agent.agent_id,
        )


class FeedbackStep(msgspec.Struct, frozen=True):
    """A step in the history of feedback; it never changes."""

    feedback_id: str
    action: Annotated[FeedbackAction, member("what happened", "adopted")]
    at_ms: Annotated[int, member("when it happened")]
    by: Annotated[str, member("who did it", "analyst")]
    why: Annotated[str, member("the reason given", "a new supplier")]


PreviewStatus = Literal["waiting", "running", "done", "failed"]


class FeedbackPreview(msgspec.Struct, frozen=True):
    """A preview of a rule: its subject, progress and result.

    Attributes:
        draft: digest of decision, verdict, scope and expiry, which adoption must match.
        updated_ms: heartbeat of the process that runs it.
        result: JSON; b"" until it is done.
    """

    preview_id: Annotated[str, member("id of the preview", "01KAW4BD1JQ4V1S0Z3Y8M4C2QK")]
    decision_id: DecisionId
    tenant: str
    author: str
    draft: str
    status: Annotated[PreviewStatus, member("status of the preview")]
    progress: Annotated[float, member("share that is done, 0 to 1", 1.0)]
    created_ms: int
    updated_ms: int
    error: Annotated[str, member("why the preview failed, if it did", "the log begins later", null=True)]
    result: bytes
