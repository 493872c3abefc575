"""Who orders something about an agent."""

from __future__ import annotations

from ...scoring.records import AgentName
from ..callers import AuthenticatedCaller
from ..guard.approvals import Attribution
from ..problems import ProblemDetails, ProblemError
from .gate import ApplicationContext


def attribute_to_caller(
    parts: ApplicationContext, caller: AuthenticatedCaller, agent: AgentName, why: str
) -> Attribution:
    """Who orders it. An agent can not speak for itself, by no client that is known to be its own.

    Raises:
        ProblemError: 403, the caller is the agent.
    """
    own = {agent.agent_id, *(one.clients.get(agent.agent_id, "") for one in parts.runtime.settings.actuators)}
    if {caller.client_id, caller.subject} & own - {""}:
        detail = "nobody decides about itself; another caller has to"
        raise ProblemError(ProblemDetails(403, "own_decision", "Own decision", detail))
    return Attribution(caller.name or caller.subject, why)
