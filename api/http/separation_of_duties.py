"""Separation of duties: no caller decides about itself, by name or as one of a group. Also checks reasons."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.records.agents import AgentName, AgentSummary

from ..settings.access_settings import ANY_NAME
from .auth.callers import AuthenticatedCaller
from .problems import ProblemDetails, ProblemError, invalid_value_error

MAX_REASON_LENGTH: Final = 2_048


class Reviewer(NamedTuple):
    """A person or client that decides, from its token: name, tenants that it may act for (None = all), and its ids."""

    name: str
    tenants: Collection[str] | None
    ids: frozenset[str] = frozenset()


class Attribution(NamedTuple):
    """The name of the caller that decides, and its reason."""

    name: str
    why: str


def reviewer_of(caller: AuthenticatedCaller) -> Reviewer:
    """Return the author that a token names."""
    tenants = None if ANY_NAME in caller.tenants else caller.tenants
    return Reviewer(caller.recorded_name, tenants, caller.other_names | {caller.client_id, caller.subject} - {""})


def agents_operated_by(author: Reviewer, actuators: Iterable[ActuatorSettings]) -> set[str]:
    """Return the ids of agents that *author* may be: its own ids, and agents whose client it is at an authorization
    server."""
    return _agents_of_client(author, actuators) | set(author.ids)


def _agents_of_client(author: Reviewer, actuators: Iterable[ActuatorSettings]) -> set[str]:
    return {agent for actuator in actuators for agent, client in actuator.clients.items() if client in author.ids}


def check_not_own_agent(agent: AgentName, author: Reviewer, actuators: Iterable[ActuatorSettings]) -> None:
    """Refuse feedback of an agent on itself, whichever of its clients it uses. Raises ProblemError (403)."""
    if agent.agent_id in agents_operated_by(author, actuators):
        raise _own_decision_error("a caller cannot decide about itself; another one must")


def check_not_own_group(
    agent_type: str, own: Mapping[str, Sequence[AgentSummary]], author: Reviewer, actuators: Iterable[ActuatorSettings]
) -> None:
    """Refuse feedback for a peer group that the author belongs to: such a rule would cover it. Raises ProblemError."""
    if any(summary.agent_type == agent_type for summaries in own.values() for summary in summaries):
        raise _own_decision_error(
            f"a caller cannot decide about itself, and this one is an agent of the type {agent_type}: another one must"
        )
    if unseen := sorted(agent for agent in _agents_of_client(author, actuators) if not own.get(agent)):
        raise _own_decision_error(
            f"a caller cannot decide about itself, and this one is the client of {unseen[0]}, which was never seen and"
            f" may be of the type {agent_type}: another one must"
        )


def _own_decision_error(detail: str) -> ProblemError:
    return ProblemError(ProblemDetails(403, "own_decision", "Own decision", detail))


def attribute_to_caller(
    actuators: Iterable[ActuatorSettings], caller: AuthenticatedCaller, agent: AgentName, why: str
) -> Attribution:
    """Return the caller as the author of an order about *agent*, which may not be the caller itself. Raises
    ProblemError."""
    check_not_own_agent(agent, reviewer_of(caller), actuators)
    return Attribution(caller.recorded_name, why)


def check_reason(member: str, reason: str, *, required: bool = True, kept_with: str = "the decision") -> None:
    """Raise ProblemError (422) if a reason is too long, or is required and missing."""
    if required and not reason.strip():
        raise invalid_value_error(member, f"is empty; say why: it is kept with {kept_with}")
    if len(reason) > MAX_REASON_LENGTH:
        raise invalid_value_error(member, f"has more than {MAX_REASON_LENGTH} characters")
