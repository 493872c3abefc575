"""AuthZEN's questions: one evaluation, or many with defaults (OpenID AuthZEN Authorization API 1.0).

An item whose action is `issue:<token type>:<grant type>` is the gate of the token issuance profile: whether a token is
issued at all. Every other item asks for its action by name: a scope, in that profile. The items that one agent asks for
at once are one question.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ...scoring.policy import AccessRequest
from .base import (
    MAX_SCOPES,
    REFRESH_GRANT,
    ParsedHookRequest,
    RequestLimitExceeded,
    UnreadableHookRequest,
    check_name_length,
    earlier_actors,
    member_at,
    principal_member,
    text_or_empty,
    without_empty_members,
)

ISSUANCE_ACTION = re.compile(r"issue:([^:]+):(.+)")

EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT = "execute_all", "deny_on_first_deny", "permit_on_first_permit"
EVALUATION_SEMANTICS = (EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT)

_REQUIRED_MEMBERS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}


class EvaluationRequester(NamedTuple):
    """Whose request an item is: items of the same are one question."""

    agent: str
    principal: str
    ancestors: tuple[str, ...]


class EvaluationItem(NamedTuple):
    """One evaluation. `grant` is the grant type of a gate, "" for every other; `error` says what is wrong with it."""

    requester: EvaluationRequester
    action: str
    grant: str
    resource: tuple[str, str]
    error: str = ""


class EvaluationBatch(NamedTuple):
    """A whole request. `several` says whether an array is to be answered."""

    items: list[EvaluationItem]
    semantic: str
    is_batch: bool


_INVALID_ITEM = EvaluationItem(EvaluationRequester("", "", ()), "", "", ("", ""))


def read_evaluations(data: dict[str, Any], *, several: bool) -> EvaluationBatch:
    """The evaluations of a request.

    Args:
        data: the request.
        several: whether it came to the endpoint for many; without any it is one all the same.

    Raises:
        Unreadable: it is none as a whole.
        RequestLimitExceeded: more than MAX_SCOPES of them.
    """
    given = data.get("evaluations") if several else None
    if given is not None and type(given) is not list:
        raise UnreadableHookRequest("evaluations must be an array")
    if not given:
        item = _read_item(data, {})
        if item.error:
            raise UnreadableHookRequest(item.error)
        return EvaluationBatch([item], EXECUTE_ALL, False)
    if len(given) > MAX_SCOPES:
        raise RequestLimitExceeded(f"evaluations may have {MAX_SCOPES} items")
    semantic = member_at(data, "options", "evaluations_semantic") or EXECUTE_ALL
    if semantic not in EVALUATION_SEMANTICS:
        raise UnreadableHookRequest(f"options.evaluations_semantic must be one of {', '.join(EVALUATION_SEMANTICS)}")
    return EvaluationBatch([_read_item(one, data) for one in given], semantic, True)


def _read_item(given: Any, defaults: dict[str, Any]) -> EvaluationItem:
    """One item; a member that it does not have is that of the request."""
    if type(given) is not dict:
        return _INVALID_ITEM._replace(error="an evaluation must be an object")
    whole: dict[str, Any] = {name: given.get(name, defaults.get(name)) for name in (*_REQUIRED_MEMBERS, "context")}
    for part, members in _REQUIRED_MEMBERS.items():
        for member in members:
            if not text_or_empty(member_at(whole[part], member)):
                return _INVALID_ITEM._replace(error=f"{part}.{member} is required and must be a text")
    context = whole["context"]
    if context is not None and type(context) is not dict:
        return _INVALID_ITEM._replace(error="context must be an object")
    subject, action = whole["subject"], check_name_length(whole["action"]["name"])
    client = text_or_empty(member_at(context, "client_id"))
    agent = check_name_length(client if client and subject["type"] == "user" else subject["id"])
    act = member_at(context, "act") or member_at(subject, "properties", "act")
    who = EvaluationRequester(
        agent, "" if agent == subject["id"] else check_name_length(subject["id"]), earlier_actors(act, agent)
    )
    gate = ISSUANCE_ACTION.fullmatch(action)
    resource = check_name_length(whole["resource"]["type"]), check_name_length(whole["resource"]["id"])
    return EvaluationItem(who, action, gate.group(2) if gate else "", resource)


def group_by_requester(
    items: list[EvaluationItem], tenant: str, issuer: str
) -> dict[EvaluationRequester, ParsedHookRequest]:
    """One question for all that somebody asks for at once."""
    mine: dict[EvaluationRequester, list[EvaluationItem]] = {}
    for item in items:
        if not item.error:
            mine.setdefault(item.requester, []).append(item)
    return {who: _parsed_request_of(who, asked, tenant, issuer) for who, asked in mine.items()}


def _parsed_request_of(
    who: EvaluationRequester, items: list[EvaluationItem], tenant: str, issuer: str
) -> ParsedHookRequest:
    gates = [item for item in items if item.grant]
    scopes = tuple(dict.fromkeys(item.action for item in items if not item.grant))
    refresh = any(gate.grant == REFRESH_GRANT for gate in gates)
    question = AccessRequest(tenant, issuer, who.agent, scopes, refresh, who.ancestors)
    kind, name = items[0].resource
    if gates:
        more = without_empty_members(principal=principal_member(who.principal, who.agent), resource={"audience": name})
        return ParsedHookRequest(question, gates[0].grant, None, more)
    more = without_empty_members(
        principal=principal_member(who.principal, who.agent),
        resource={"type": kind, "id": name},
        count=len(items) if len(items) > 1 else None,
    )
    # Names of actions are judged as scopes are, and are none: events hold scopes of tokens alone.
    return ParsedHookRequest(question, items[0].action, None, {**more, "scopes": None}, own_event_type="api.call")
