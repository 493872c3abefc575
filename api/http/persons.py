"""Who orders something about an agent."""

from __future__ import annotations

from ...scoring.records import AgentName
from ..callers import Caller
from ..guard.approvals import Person
from ..problems import Problem, ProblemError
from .gate import Parts


def person(parts: Parts, caller: Caller, agent: AgentName, why: str) -> Person:
    """Who orders it. An agent can not speak for itself, by no client that is known to be its own.

    Raises:
        ProblemError: 403, the caller is the agent.
    """
    own = {agent.agent_id, *(one.clients.get(agent.agent_id, "") for one in parts.services.settings.actuators)}
    if {caller.client_id, caller.subject} & own - {""}:
        detail = "nobody decides about itself; another caller has to"
        raise ProblemError(Problem(403, "own_decision", "Own decision", detail))
    return Person(caller.name or caller.subject, why)
