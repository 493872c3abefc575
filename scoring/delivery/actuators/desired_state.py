"""The desired state of an agent's tokens, as requested from an actuator, and the outbox row of the request."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import TrustwatchError

from ...policy.access_evaluation import DENIED_BY_LEVEL, AccessRequest, Verdict, evaluate_policy
from ...policy.book import PolicyBook
from ...records.agents import AgentName, RiskLevel
from ...records.commits import OutboxRow
from ...records.decisions import Decision

ACTION_ROW_KIND = "action"


class DesiredState(msgspec.Struct, frozen=True):
    """State that is to hold for an agent at an authorization server."""

    tenant: str
    issuer: str
    agent_id: str
    agent_key: int  # `AgentName.key`, unsigned
    level: Annotated[str, member("level that the policy uses", "high")]
    allow: Annotated[bool, member("whether new tokens are issued at all")]
    max_token_lifetime_s: Annotated[int | None, member("maximum lifetime of a new token, s; null for no maximum", 60)]
    refresh_allowed: Annotated[bool, member("whether refresh tokens may be issued and used")]
    revoke: Annotated[bool, member("whether tokens already issued are revoked")]
    decision_id: str  # the decision (or the pin) it follows from; the same one revokes once
    caused_ms: int  # time of the event that led to it, UTC milliseconds; 0 = none (a tick, a person)
    decided_ms: int
    agent_type: str = ""
    principals: tuple[str, ...] = ()  # on whose behalf the agent acted lately, for consents; only if tokens are to die

    @property
    def name(self) -> AgentName:
        """The agent."""
        return AgentName(self.agent_key, self.tenant, self.issuer, self.agent_id)

    @property
    def restores(self) -> bool:
        """True if nothing is to be lowered: the server is to be as it was."""
        return self.allow and self.refresh_allowed and not self.revoke and self.max_token_lifetime_s is None

    @property
    def ceiling_s(self) -> int | None:
        """Lifetime to set, at least 1 s: servers take 0 for "not set". None = no ceiling."""
        return None if self.max_token_lifetime_s is None else max(1, self.max_token_lifetime_s)


class UnreadableAction(TrustwatchError):
    """A row that no actuator can read: written by another version or another program."""

    code = "bad_action"


_desired_state_decoder = msgspec.json.Decoder(DesiredState)
encode_desired_state = msgspec.json.Encoder().encode


def decode_desired_state(payload: bytes) -> DesiredState:
    """Decode the payload of an action row. Raises UnreadableAction."""
    try:
        return _desired_state_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise UnreadableAction(f"the row cannot be read: {error}") from None


def derive_desired_state(
    name: AgentName,
    agent_type: str,
    verdict: Verdict,
    decision_id: str,
    *,
    caused_ms: int,
    decided_ms: int,
    principals: tuple[str, ...] = (),
    every_level: bool = False,
) -> DesiredState:
    """Desired state of an agent's client, from a verdict about the agent without a request.

    Nothing is lowered in shadow mode, and at `low` and `unknown` only with *every_level*. A person's approval that is
    missing (step-up) lowers nothing either: hooks and gateways refuse what waits for a person.
    """
    lowered = verdict.enforced and (every_level or verdict.level >= RiskLevel.MEDIUM)
    revoke = lowered and verdict.revoke
    return DesiredState(
        name.tenant,
        name.issuer,
        name.agent_id,
        name.key,
        verdict.level.label,
        allow=not lowered or verdict.reason != DENIED_BY_LEVEL,
        max_token_lifetime_s=verdict.max_token_lifetime_s if lowered else None,
        refresh_allowed=not lowered or verdict.refresh_allowed,
        revoke=revoke,
        decision_id=decision_id,
        caused_ms=caused_ms,
        decided_ms=decided_ms,
        agent_type=agent_type,
        principals=principals if revoke else (),
    )


def build_decision_action_row(decision: Decision, book: PolicyBook, *, every_level: bool = False) -> OutboxRow | None:
    """The row by which a change of level reaches every actuator; None if nothing is acted on.

    The row counts as a call to look: what is done is what holds when it is delivered (`DesiredStateResolver`).
    """
    agent = decision.agent
    effective_policy = book.effective_policy(*agent.identity, decision.agent_type, decision.concern)
    acted_on = every_level or max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM
    if not effective_policy.enforced or not acted_on:
        return None
    verdict = evaluate_policy(AccessRequest(*agent.identity), effective_policy, RiskLevel(decision.level), book.version)
    desired = derive_desired_state(
        agent,
        decision.agent_type,
        verdict,
        decision.decision_id,
        caused_ms=decision.event_time_ms if decision.event_id else 0,
        decided_ms=decision.decided_ms,
    )
    return build_action_row(f"action-{decision.decision_id}", desired)


def build_action_row(key: str, desired: DesiredState, target: str = "") -> OutboxRow:
    """The outbox row of *desired*; *target* "" = every actuator that serves the agent."""
    return OutboxRow(
        key=key,
        kind=ACTION_ROW_KIND,
        target=target,
        payload=encode_desired_state(desired),
        created_ms=desired.decided_ms,
        agent_key=desired.agent_key,
        level=RiskLevel[desired.level.upper()],
        tenant=desired.tenant,
    )
