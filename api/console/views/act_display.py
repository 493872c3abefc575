"""Acts of people in words, with a link to what each was about, and as rows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.acts import Act, ActKind

from ..rendering import agent_url

KIND_WORDS: Final[Mapping[ActKind, str]] = {
    "pin": "fixed levels",
    "approval": "approvals",
    "release": "releases",
    "case": "cases",
    "feedback": "feedback",
    "erasure": "erasures",
    "model": "models",
    "stream": "streams of security event tokens",
}
_WORDS: Final[Mapping[tuple[str, str], str]] = {
    ("pin", "pin"): "fixed the level",
    ("pin", "unpin"): "ended the fixed level",
    ("approval", "approve"): "approved",
    ("approval", "reject"): "rejected",
    ("approval", "withdraw"): "withdrew an approval",
    ("release", "release"): "released the agent",
    ("case", "acknowledged"): "looks at the case",
    ("case", "assigned"): "handed the case over",
    ("case", "noted"): "wrote a note",
    ("case", "snoozed"): "snoozed the case",
    ("case", "contained"): "contained the case",
    ("case", "closed"): "closed the case",
    ("case", "reopened"): "reopened the case",
    ("case", "merged"): "merged cases",
    ("case", "split"): "split the case",
    ("feedback", "judge"): "judged a decision",
    ("feedback", "revoke"): "took feedback back",
    ("erasure", "erase"): "ordered an erasure",
    ("model", "installed"): "installed a model",
    ("model", "trained"): "had a model trained",
    ("model", "promoted"): "promoted a model",
    ("model", "rolled_back"): "went back to a model",
    ("model", "rejected"): "rejected a model",
    ("model", "failed"): "asked for a training, which failed",
    ("stream", "create"): "created a stream",
}


class ShownAct(NamedTuple):
    """An act on a page. *url* leads to what it was about; "" = no page shows that."""

    act: Act
    words: str
    url: str


def display_acts(acts: Iterable[Act]) -> list[ShownAct]:
    """Acts as the page shows them."""
    return [ShownAct(act, _WORDS.get((act.kind, act.action), act.action), _url_of(act)) for act in acts]


def _url_of(act: Act) -> str:
    match act.kind:
        case "case":
            return f"/console/cases/{quote(act.subject_id, safe='')}"
        case "release":
            return f"/console/decisions/{quote(act.subject_id, safe='')}"
        case "model":
            return f"/console/models/{quote(act.subject_id, safe='')}" if act.subject_id else "/console/models"
        case "approval":
            return "/console/approvals?status="
        case "feedback":
            return "/console/feedback"
    if act.agent is None:
        return ""
    return agent_url(act.agent.tenant, act.agent.issuer, act.agent.agent_id)


def act_row(act: Act) -> dict[str, Any]:
    """An act as files have it."""
    return {
        "at": format_rfc3339(act.at_ms),
        "by": act.by,
        "kind": act.kind,
        "action": act.action,
        "subject_id": act.subject_id,
        "detail": act.detail,
        "why": act.why,
        "tenant": act.tenant,
        "issuer": None if act.agent is None else act.agent.issuer,
        "agent_id": None if act.agent is None else act.agent.agent_id,
    }
