"""AuthZEN requests: evaluations, and the decisions that they ask for.

An item whose action is `issue:<token type>:<grant type>` is the gate of the token issuance profile: whether a token is
issued at all. Every other item asks for its action by name: a scope, in that profile. The items that one agent asks for
at once form one decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import msgspec

from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.records.containment import Intervention

from ...http.auth.callers import AuthenticatedCaller
from ..call_evaluation import CallQuestion
from ..decision_point import (
    MAX_ACTORS,
    MAX_SCOPES,
    TOOL_CALL,
    RequestLimitExceeded,
    check_name_length,
    text_or_empty,
)
from .hook_adapter import (
    REFRESH_GRANT,
    ParsedHookRequest,
    UnreadableHookRequest,
    member_at,
    principal_member,
    without_empty_members,
)

ISSUANCE_ACTION = re.compile(r"issue:([^:]+):(.+)")

EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT = "execute_all", "deny_on_first_deny", "permit_on_first_permit"
EVALUATION_SEMANTICS = (EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT)

MAX_CALLS = 50
"""Items of a batch with arguments: the model scores each, and no other request is answered meanwhile."""

MAX_JUDGED_AGENTS = 50
"""Agents that a batch may ask about: each, with the principal and the chain that an item names, is judged once."""

ITEMS_PER_SLICE = 50
"""Items of a batch that are read, or answered, before others are answered."""

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work that lets others go first after each slice."""

_REQUIRED_MEMBERS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}


PERSON_TYPES = frozenset({"user", "identity"})
"""Types of subjects that are never agents."""


class JudgedAgent(NamedTuple):
    """An agent that is judged. `issuer` is "" if the request names none: the request's issuer applies."""

    agent_id: str
    issuer: str = ""


class UnreadableAgent(ValueError):
    """Raised if a member that names agents has another shape than the ones that are accepted."""


class EvaluationRequester(NamedTuple):
    """The agents and principal of a batch item. Items with the same values share one decision.

    Attributes:
        agents: that are judged, the acting one first; empty if the request names none.
        ancestors: earlier actors of the delegation chain, nearest first.
        principal: id and type of whom the agent acts for; "" = it acts for itself.
        subject: id of a subject that is judged too if it is a known agent; "" = there is none.
    """

    agents: tuple[JudgedAgent, ...]
    ancestors: tuple[str, ...]
    principal: tuple[str, str]
    subject: str

    @property
    def acting(self) -> JudgedAgent:
        """The acting agent, without a name if the request names none."""
        return self.agents[0] if self.agents else JudgedAgent("")

    @property
    def most_agents(self) -> int:
        """Maximum number of agents that are judged for it, including the subject; at least 1."""
        return max(1, len({*self.agents, JudgedAgent(self.subject)} if self.subject else self.agents))


class EvaluationAsker(NamedTuple):
    """The caller, and the tenant and issuer of the agents in its request. `spent`: see `AccessRequest`."""

    caller: AuthenticatedCaller
    tenant: str
    issuer: str
    spent: tuple[Intervention, ...] = ()

    def speaks_for(self, agent: JudgedAgent) -> bool:
        """Return whether the caller's events about that agent would be accepted."""
        return bool(agent.agent_id) and self.caller.binding.may_speak_for(
            self.tenant, agent.issuer or self.issuer, agent.agent_id
        )

    def is_refused(self, requester: EvaluationRequester) -> bool:
        """Return whether the item names several agents, or one of another issuer, that the caller is not authorized
        for.
        """
        names_others = len(requester.agents) > 1 or bool(requester.acting.issuer)
        return names_others and not all(map(self.speaks_for, requester.agents))

    def access_request(
        self, requester: EvaluationRequester, agent: JudgedAgent, scopes: tuple[str, ...], *, refresh: bool = False
    ) -> AccessRequest:
        """Return a request about an agent. If the caller is not authorized for it, no approval is requested in its
        name.
        """
        return AccessRequest(
            self.tenant,
            agent.issuer or self.issuer,
            agent.agent_id,
            scopes,
            refresh,
            requester.ancestors if agent == requester.acting else (),
            self.speaks_for(agent),
            self.caller.binding.name,
            spent=self.spent,
        )


class EvaluationItem(NamedTuple):
    """One evaluation. `grant` is the grant type of a gate, "" for every other; `error` is what is wrong with it; `call`
    is the call to judge if the context has its arguments; `action` is the action to judge."""

    requester: EvaluationRequester
    action: str
    grant: str
    resource: tuple[str, str]
    error: str = ""
    call: CallQuestion | None = None
    status: int = 400


class EvaluationBatch(NamedTuple):
    """A whole request. `several` is true if the answer is an array."""

    items: list[EvaluationItem]
    semantic: str
    is_batch: bool


_NO_REQUESTER = EvaluationRequester((), (), ("", ""), "")
INVALID_ITEM = EvaluationItem(_NO_REQUESTER, "", "", ("", ""))


def read_in_slices(data: dict[str, Any], *, several: bool) -> Slices[EvaluationBatch]:
    """Parse the evaluations of a request in slices. Raises Unreadable, RequestLimitExceeded."""
    given = data.get("evaluations") if several else None
    if given is not None and type(given) is not list:
        raise UnreadableHookRequest("evaluations must be an array")
    if not given:
        return EvaluationBatch([read_single(data)], EXECUTE_ALL, False)
    if len(given) > MAX_SCOPES:
        raise RequestLimitExceeded(f"evaluations may have {MAX_SCOPES} items")
    semantic = member_at(data, "options", "evaluations_semantic") or EXECUTE_ALL
    if semantic not in EVALUATION_SEMANTICS:
        raise UnreadableHookRequest(f"options.evaluations_semantic must be one of {', '.join(EVALUATION_SEMANTICS)}")
    contexts = [one.get("context", data.get("context")) for one in given if type(one) is dict]
    if sum(member_at(context, "arguments") is not None for context in contexts) > MAX_CALLS:
        raise RequestLimitExceeded(f"{MAX_CALLS} evaluations may have arguments; evaluate further calls separately")
    items = []
    for evaluation in given:
        items.append(_read_item(evaluation, data))
        if not len(items) % ITEMS_PER_SLICE:
            yield
    if sum(item.requester.most_agents for item in items if item.call is not None) > MAX_CALLS:
        raise RequestLimitExceeded(f"a request may evaluate {MAX_CALLS} calls with arguments, one for each agent")
    if sum(one.most_agents for one in {item.requester for item in items if not item.error}) > MAX_JUDGED_AGENTS:
        raise RequestLimitExceeded(f"evaluations may name {MAX_JUDGED_AGENTS} agents; evaluate others separately")
    return EvaluationBatch(items, semantic, True)


def read_single(data: dict[str, Any]) -> EvaluationItem:
    """Parse a request for a single evaluation. Raises Unreadable."""
    item = _read_item(data, {})
    if item.error:
        raise UnreadableHookRequest(item.error)
    return item


def _read_item(given: Any, defaults: dict[str, Any]) -> EvaluationItem:
    """Parse one item; members that it lacks are taken from the request."""
    if type(given) is not dict:
        return INVALID_ITEM._replace(error="an evaluation must be an object")
    whole: dict[str, Any] = {name: given.get(name, defaults.get(name)) for name in (*_REQUIRED_MEMBERS, "context")}
    for part, members in _REQUIRED_MEMBERS.items():
        for member in members:
            if not text_or_empty(member_at(whole[part], member)):
                return INVALID_ITEM._replace(error=f"{part}.{member} is required and must be a text")
    context = whole["context"]
    if context is not None and type(context) is not dict:
        return INVALID_ITEM._replace(error="context must be an object")
    try:
        who = _read_requester(whole["subject"], context)
    except UnreadableAgent as error:
        return INVALID_ITEM._replace(error=str(error))
    resource = check_name_length(whole["resource"]["type"]), check_name_length(whole["resource"]["id"])
    named = check_name_length(whole["action"]["name"])
    # For an MCP tool call, the tool is judged.
    action, gate = resource[1] if named == TOOL_CALL else named, ISSUANCE_ACTION.fullmatch(named)
    if gate or member_at(context, "arguments") is None:
        return EvaluationItem(who, action, gate.group(2) if gate else "", resource)
    try:
        call = _read_call(whole, action)
    except msgspec.ValidationError as error:
        return INVALID_ITEM._replace(error=f"no call can be read: {error}")
    return EvaluationItem(who, action, "", resource, call=call)


def _read_requester(subject: dict[str, Any], context: dict[str, Any] | None) -> EvaluationRequester:
    given, properties = context or {}, subject.get("properties")
    named = [
        _read_agent(given[name], f"context.{name}") for name in ("agent", "client_id") if given.get(name) is not None
    ]
    actors = _read_actors(given.get("act"), "context.act")
    if type(properties) is dict:
        actors += _read_actors(properties.get("act"), "subject.properties.act")
    judged = tuple(dict.fromkeys(named + actors))
    subject_id, is_person = check_name_length(subject["id"]), subject["type"] in PERSON_TYPES
    kind = "user" if is_person else check_name_length(subject["type"])
    if not judged and not is_person:
        return EvaluationRequester((JudgedAgent(subject_id),), (), ("", ""), "")
    if not judged:
        return EvaluationRequester((), (), (subject_id, kind), "")
    ancestors = dict.fromkeys(actor.agent_id for actor in actors if actor != judged[0])
    principal = ("", "") if judged[0].agent_id == subject_id else (subject_id, kind)
    return EvaluationRequester(judged, tuple(ancestors), principal, "" if is_person else subject_id)


def _read_actors(act: Any, at: str) -> list[JudgedAgent]:
    """Parse the actors of a delegation chain (`act` of RFC 8693), the current one first."""
    actors: list[JudgedAgent] = []
    while act is not None:
        if len(actors) == MAX_ACTORS:
            raise RequestLimitExceeded(f"{at} may have {MAX_ACTORS} actors")
        actors.append(_read_agent(act, at, "sub", "id"))
        act, at = act.get("act") if type(act) is dict else None, f"{at}.act"
    return actors


def _read_agent(value: Any, at: str, *id_members: str) -> JudgedAgent:
    """Parse an agent: its id as a string, or an object with the id in the first of *id_members* (`id`) that it has."""
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


def _read_call(whole: dict[str, Any], judged: str) -> CallQuestion:
    subject, action, resource, context = (whole[name] for name in ("subject", "action", "resource", "context"))
    properties = member_at(resource, "properties")
    call_members = {
        "action": judged,
        "effect": member_at(action, "properties", "effect"),
        "resource": {
            **(properties if type(properties) is dict else {}),
            "type": resource["type"],
            "id": resource["id"],
        },
        "principal": {"id": subject["id"]} if subject["type"] in PERSON_TYPES else None,
        **{name: context.get(name) for name in ("arguments", "arguments_hash", "task", "peer")},
    }
    return msgspec.convert(call_members, CallQuestion)


class RequesterQuestions(NamedTuple):
    """Decisions for one requester: one for each judged agent, the acting one first."""

    parsed: list[ParsedHookRequest]
    agents: list[JudgedAgent]


def group_by_requester(
    items: list[EvaluationItem], asker: EvaluationAsker, is_known: Callable[[str], bool]
) -> dict[EvaluationRequester, RequesterQuestions]:
    """Group decisions by requester. *is_known* returns whether an id is that of a known agent."""
    by_requester: dict[EvaluationRequester, list[EvaluationItem]] = {}
    for item in items:
        if not item.error:
            by_requester.setdefault(item.requester, []).append(item)
    questions = {}
    for requester, requested in by_requester.items():
        agents = list(requester.agents) or [requester.acting]
        subject = JudgedAgent(requester.subject)
        if requester.subject and subject not in agents and is_known(requester.subject):
            agents.append(subject)
        parsed = [_parsed_request_of(requester, agent, requested, asker) for agent in agents]
        questions[requester] = RequesterQuestions(parsed, agents)
    return questions


def _parsed_request_of(
    requester: EvaluationRequester, agent: JudgedAgent, items: list[EvaluationItem], asker: EvaluationAsker
) -> ParsedHookRequest:
    gates = [item for item in items if item.grant]
    scopes = tuple(dict.fromkeys(item.action for item in items if not item.grant))
    refresh = any(gate.grant == REFRESH_GRANT for gate in gates)
    question = asker.access_request(requester, agent, scopes, refresh=refresh)
    kind, name = items[0].resource
    principal = principal_member(requester.principal[0], requester.acting.agent_id, requester.principal[1])
    if gates:
        more = without_empty_members(principal=principal, resource={"audience": name})
        return ParsedHookRequest(question, gates[0].grant, None, more)
    more = without_empty_members(
        principal=principal, resource={"type": kind, "id": name}, count=len(items) if len(items) > 1 else None
    )
    # The model judges a call with arguments; the call evaluator knows its boundary, too.
    actions = tuple(dict.fromkeys(item.action for item in items if item.call is None))
    question = question._replace(actions=actions)
    # Action names are judged like scopes but are not scopes: events hold only scopes of tokens.
    return ParsedHookRequest(question, items[0].action, None, {**more, "scopes": None}, own_event_type="api.call")
