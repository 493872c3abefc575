"""Agents that an AuthZEN evaluation is judged for, and the strictest of their verdicts.

The MCP binding (COAZ) sends the person as the subject and the agent in the context, so the context decides: `agent`,
`client_id` and every actor of `act` are judged. Only if it names none is the subject the agent, unless it is a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from trustwatch.scoring.policy.access_evaluation import SCOPES_REFUSED, STEP_UP, Verdict

from .decision_point import MAX_ACTORS, AccessDecision, RequestLimitExceeded, check_name_length

PERSON_TYPES = frozenset({"user", "identity"})
"""Types of subjects that are never agents."""

NO_AGENT = (
    "the request names no agent: a subject of this type is a person, and the context has none of `agent`, `client_id` "
    "and `act`; it is answered as for an unknown agent"
)

TOOL_CALL = "tools/call"
"""Method of MCP whose judged action is the tool; every other method is an action of its own name."""


class JudgedAgent(NamedTuple):
    """An agent that is judged. `issuer` is "" if the request names none: then it is the one asked under."""

    agent_id: str
    issuer: str = ""


class UnreadableAgent(ValueError):
    """Raised if a member that names agents has another shape than the ones that are accepted."""


class NamedAgents(NamedTuple):
    """Agents that a request names.

    Attributes:
        judged: each once, the one that acts first; empty if the request names none and its subject is a person.
        ancestors: actors of the delegation chain before the one that acts, nearest first.
        subject: id of the subject if it may be a further agent, else "".
    """

    judged: tuple[JudgedAgent, ...]
    ancestors: tuple[str, ...]
    subject: str


def read_named_agents(subject: dict[str, Any], context: dict[str, Any] | None) -> NamedAgents:
    """The agents that a request names. Raises UnreadableAgent, RequestLimitExceeded."""
    given, properties = context or {}, subject.get("properties")
    named = [
        _read_agent(given[name], f"context.{name}") for name in ("agent", "client_id") if given.get(name) is not None
    ]
    actors = _read_actors(given.get("act"), "context.act")
    if type(properties) is dict:
        actors += _read_actors(properties.get("act"), "subject.properties.act")
    judged = tuple(dict.fromkeys(named + actors))
    is_person = subject["type"] in PERSON_TYPES
    if not judged:
        return NamedAgents(() if is_person else (JudgedAgent(check_name_length(subject["id"])),), (), "")
    ancestors = dict.fromkeys(actor.agent_id for actor in actors if actor != judged[0])
    return NamedAgents(judged, tuple(ancestors), "" if is_person else subject["id"])


def _read_actors(act: Any, at: str) -> list[JudgedAgent]:
    """Actors of a delegation chain (`act` of RFC 8693), the current one first."""
    actors: list[JudgedAgent] = []
    while act is not None:
        if len(actors) == MAX_ACTORS:
            raise RequestLimitExceeded(f"{at} may have {MAX_ACTORS} actors")
        actors.append(_read_agent(act, at, "sub", "id"))
        act, at = act.get("act") if type(act) is dict else None, f"{at}.act"
    return actors


def _read_agent(value: Any, at: str, *id_members: str) -> JudgedAgent:
    """An agent: its id as a text, or an object with the id in the first of *id_members* (`id`) that it has."""
    issuer: Any = None
    if type(value) is dict:
        issuer = None if "sub" in value else value.get("issuer")
        member = next((name for name in id_members if name in value), "id")
        value, at = value.get(member), f"{at}.{member}"
    if type(value) is not str or not value:
        raise UnreadableAgent(f"{at} must be the id of an agent: a text that is not empty, or an object with that `id`")
    if issuer is not None and (type(issuer) is not str or not issuer):
        raise UnreadableAgent(f"{at.rpartition('.')[0]}.issuer must be a text that is not empty")
    return JudgedAgent(check_name_length(value), check_name_length(issuer or ""))


def judged_action(action: str, resource_id: str) -> str:
    """Name of the action that is judged: for a tool call of MCP the tool."""
    return check_name_length(resource_id if action == TOOL_CALL else action)


def strictest_decision(decisions: Sequence[AccessDecision]) -> tuple[AccessDecision, int]:
    """The decision that satisfies all of *decisions*, and the index of the one that decides."""
    decides = min(range(len(decisions)), key=lambda at: _leniency(decisions[at].verdict))
    if len(decisions) == 1:
        return decisions[0], decides
    deciding = decisions[decides]
    verdict = _combine([decision.verdict for decision in decisions], deciding.verdict)
    approval_id = next((one.approval_id for one in (deciding, *decisions) if one.approval_id), "")
    return AccessDecision(verdict, deciding.context, approval_id), decides


def _leniency(verdict: Verdict) -> tuple[bool, bool, int, int]:
    """Sorts verdicts, the strictest first: denied, waiting for a person, fewest scopes, highest level."""
    left_out = len(verdict.refused_scopes) + len(verdict.held_scopes)
    return verdict.would_allow, verdict.step_up ^ verdict.would_allow, -left_out, -verdict.level


def _combine(verdicts: Sequence[Verdict], deciding: Verdict) -> Verdict:
    """One verdict that grants only what each of *verdicts* grants."""
    lifetimes = [one.max_token_lifetime_s for one in verdicts if one.max_token_lifetime_s is not None]
    granted = [one.scopes for one in verdicts if one.scopes is not None]
    scopes = tuple(scope for scope in granted[0] if all(scope in one for one in granted)) if granted else None
    held = _union(one.held_scopes for one in verdicts)
    combined = msgspec.structs.replace(
        deciding,
        allow=all(one.allow for one in verdicts),
        would_allow=all(one.would_allow for one in verdicts),
        enforced=any(one.enforced for one in verdicts),
        level=max(one.level for one in verdicts),
        max_token_lifetime_s=min(lifetimes, default=None),
        scopes=scopes,
        step_up=any(one.step_up for one in verdicts),
        held_scopes=held,
        refused_scopes=_union(one.refused_scopes for one in verdicts),
        refresh_allowed=all(one.refresh_allowed for one in verdicts),
        revoke=any(one.revoke for one in verdicts),
        stale=any(one.stale for one in verdicts),
        outside=_union(one.outside for one in verdicts),
    )
    if combined.allow and scopes == ():  # each grants some scopes, and no scope is granted by all
        reason = STEP_UP if held else SCOPES_REFUSED
        return msgspec.structs.replace(combined, allow=False, would_allow=False, reason=reason, scopes=None)
    return combined


def _union(scopes: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for some in scopes for scope in some))
