"""AuthZEN's questions: one evaluation, or many with defaults (OpenID AuthZEN Authorization API 1.0).

An item whose action is `issue:<token type>:<grant type>` is the gate of the token issuance profile: whether a token is
issued at all. Every other item asks for its action by name: a scope, in that profile. The items that one agent asks for
at once are one question.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ...scoring.policy import Question
from .base import MAX_SCOPES, REFRESH, Asked, TooMuch, Unreadable, actors, at, bounded, event, principal, text

GATE = re.compile(r"issue:([^:]+):(.+)")

EXECUTE_ALL, FIRST_DENY, FIRST_PERMIT = "execute_all", "deny_on_first_deny", "permit_on_first_permit"
SEMANTICS = (EXECUTE_ALL, FIRST_DENY, FIRST_PERMIT)

_PARTS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}


class Who(NamedTuple):
    """Whose request an item is: items of the same are one question."""

    agent: str
    principal: str
    ancestors: tuple[str, ...]


class Item(NamedTuple):
    """One evaluation. `grant` is the grant type of a gate, "" for every other; `error` says what is wrong with it."""

    who: Who
    action: str
    grant: str
    resource: tuple[str, str]
    error: str = ""


class Evaluations(NamedTuple):
    """A whole request. `several` says whether an array is to be answered."""

    items: list[Item]
    semantic: str
    several: bool


_WRONG = Item(Who("", "", ()), "", "", ("", ""))


def read_evaluations(data: dict[str, Any], *, several: bool) -> Evaluations:
    """The evaluations of a request.

    Args:
        data: the request.
        several: whether it came to the endpoint for many; without any it is one all the same.

    Raises:
        Unreadable: it is none as a whole.
        TooMuch: more than MAX_SCOPES of them.
    """
    given = data.get("evaluations") if several else None
    if given is not None and type(given) is not list:
        raise Unreadable("evaluations must be an array")
    if not given:
        item = _item(data, {})
        if item.error:
            raise Unreadable(item.error)
        return Evaluations([item], EXECUTE_ALL, False)
    if len(given) > MAX_SCOPES:
        raise TooMuch(f"evaluations may have {MAX_SCOPES} items")
    semantic = at(data, "options", "evaluations_semantic") or EXECUTE_ALL
    if semantic not in SEMANTICS:
        raise Unreadable(f"options.evaluations_semantic must be one of {', '.join(SEMANTICS)}")
    return Evaluations([_item(one, data) for one in given], semantic, True)


def _item(given: Any, defaults: dict[str, Any]) -> Item:
    """One item; a member that it does not have is that of the request."""
    if type(given) is not dict:
        return _WRONG._replace(error="an evaluation must be an object")
    whole: dict[str, Any] = {name: given.get(name, defaults.get(name)) for name in (*_PARTS, "context")}
    for part, members in _PARTS.items():
        for member in members:
            if not text(at(whole[part], member)):
                return _WRONG._replace(error=f"{part}.{member} is required and must be a text")
    context = whole["context"]
    if context is not None and type(context) is not dict:
        return _WRONG._replace(error="context must be an object")
    subject, action = whole["subject"], bounded(whole["action"]["name"])
    client = text(at(context, "client_id"))
    agent = bounded(client if client and subject["type"] == "user" else subject["id"])
    act = at(context, "act") or at(subject, "properties", "act")
    who = Who(agent, "" if agent == subject["id"] else bounded(subject["id"]), actors(act, agent))
    gate = GATE.fullmatch(action)
    resource = bounded(whole["resource"]["type"]), bounded(whole["resource"]["id"])
    return Item(who, action, gate.group(2) if gate else "", resource)


def questions(items: list[Item], tenant: str, issuer: str) -> dict[Who, Asked]:
    """One question for all that somebody asks for at once."""
    mine: dict[Who, list[Item]] = {}
    for item in items:
        if not item.error:
            mine.setdefault(item.who, []).append(item)
    return {who: _asked(who, asked, tenant, issuer) for who, asked in mine.items()}


def _asked(who: Who, items: list[Item], tenant: str, issuer: str) -> Asked:
    gates = [item for item in items if item.grant]
    scopes = tuple(dict.fromkeys(item.action for item in items if not item.grant))
    refresh = any(gate.grant == REFRESH for gate in gates)
    question = Question(tenant, issuer, who.agent, scopes, refresh, who.ancestors)
    kind, name = items[0].resource
    if gates:
        more = event(principal=principal(who.principal, who.agent), resource={"audience": name})
        return Asked(question, gates[0].grant, None, more)
    more = event(
        principal=principal(who.principal, who.agent),
        resource={"type": kind, "id": name},
        count=len(items) if len(items) > 1 else None,
    )
    # Names of actions are judged as scopes are, and are none: events hold scopes of tokens alone.
    return Asked(question, items[0].action, None, {**more, "scopes": None}, kind="api.call")
