"""Facts of an alert, independent of the format that a product requires.

Alerts are kept as CloudEvents; renderers work on `AlertContent`. Reading never fails: a member that is missing or of
another kind than expected is left out, and an unknown type is shown with its name and its plain members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from trustwatch.ingest.printable_text import printable_line

from ...records.agents import NEW_STATUSES, STATUS_WORDS, RiskLevel
from .alert_events import ALERT_TYPE, APPROVAL_TYPE, CASE_TYPE, SILENCE_TYPE, TEST_TYPE

AlertKind = Literal["level", "silence", "approval", "case", "test", "other"]

MAX_LISTED_ITEMS = 50  # Reasons, scopes and the like beyond this are left out: agents choose how many there are

MAX_FIELDS = 10  # Fields that people are shown: what chats take

MAX_SHOWN_INDICATORS = 10  # Indicators beyond this are in `data` alone: those of something new come first

_HIDDEN_MEMBERS = frozenset({"reasons", "indicators", "reason", "message", "links", "risk_level", "suppressed_before"})
_KINDS: Mapping[str, AlertKind] = {
    ALERT_TYPE: "level",
    SILENCE_TYPE: "silence",
    APPROVAL_TYPE: "approval",
    CASE_TYPE: "case",
    TEST_TYPE: "test",
}
_LEVELS = {level.label: level for level in RiskLevel}
_DEFAULT_LEVELS = {"silence": RiskLevel.HIGH, "approval": RiskLevel.MEDIUM, "test": RiskLevel.UNKNOWN}

_LABELS: Mapping[AlertKind, Mapping[str, str]] = {
    "level": {
        "agent_id": "Agent",
        "tenant": "Tenant",
        "issuer": "Issuer",
        "agent_type": "Type",
        "risk_score": "Risk",
        "concern": "Concern",
        "cause": "Cause",
        "mode": "Mode",
        "decided_at": "Decided",
    },
    "silence": {
        "source": "Source",
        "kind": "Kind",
        "tenants": "Tenants",
        "silence_s": "Bound (s)",
        "last_heard_at": "Last heard",
        "noticed_at": "Noticed",
    },
    "approval": {
        "agent_id": "Agent",
        "tenant": "Tenant",
        "issuer": "Issuer",
        "scopes": "Scopes",
        "approval_id": "Approval",
        "requested_by": "Asked by",
        "requested_at": "Requested",
        "expires_at": "Expires",
    },
    "case": {
        "case_id": "Case",
        "tenant": "Tenant",
        "agents": "Agents",
        "by": "By",
        "note": "Note",
        "verdict": "It was",
        "merged_into": "Merged into",
        "opened_at": "Opened",
    },
    "test": {"target": "Target", "requested_by": "Sent by"},
    "other": {},
}
"""Members of `data` that people are shown, in order."""


@dataclass(frozen=True)
class AlertContent:
    """One alert. Members of the CloudEvent that are missing are ""."""

    kind: AlertKind
    type: str
    event_id: str
    source: str
    subject: str
    time: str
    level: RiskLevel  # that it announces
    previous: RiskLevel | None  # level before; None if it reports no change
    title: str
    fields: tuple[tuple[str, str], ...]  # (label, value) of what people should see, at most `MAX_FIELDS`
    reasons: tuple[str, ...]  # sentences
    indicators: tuple[tuple[str, str], ...]  # (label, value with its status), the latest new ones first
    links: tuple[tuple[str, str], ...]  # (label, URL), http or https alone
    data: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, ...]:
        """Subject of the alert: the same for all alerts about one agent, silent source, approval or test target."""
        names = {
            "level": ("tenant", "issuer", "agent_id"),
            "silence": ("kind", "source"),
            "approval": ("approval_id",),
            "case": ("case_id",),
            "test": ("target",),
        }.get(self.kind, ())
        exact = tuple(text_or_empty(self.data.get(name)) for name in names)
        return exact if any(exact) else (self.type, self.subject, self.event_id)

    @property
    def needs_attention(self) -> bool:
        """True if a person should look: except for falling levels, levels below medium, and acts of people."""
        if self.kind == "case":
            begins = self.data.get("action") in ("reopened", "opened")
            return begins and bool(self.data.get("agents_above_low"))
        if self.kind != "level":
            return True
        return self.level >= RiskLevel.MEDIUM and (self.previous is None or self.previous < self.level)

    @property
    def resolves(self) -> bool:
        """True if the alert ends what earlier alerts about the agent began."""
        return self.kind == "level" and self.level < RiskLevel.MEDIUM

    @property
    def case(self) -> Mapping[str, Any]:
        """Members about the case that it is about or belongs to; empty if there is none."""
        within = self.data if self.kind == "case" else self.data.get("case")
        return within if isinstance(within, Mapping) else {}

    @property
    def resolves_case(self) -> bool:
        """True if nothing of the incident is left: all agents of its case are low, or a person closed it."""
        if self.kind == "case":
            left = self.data.get("agents_above_low")
            return self.data.get("status") == "closed" or (self.data.get("action") == "split" and not left)
        return self.resolves and not self.case.get("agents_above_low")


def parse_alert(event: Mapping[str, Any]) -> AlertContent:
    """*event* (a decoded CloudEvent) as facts."""
    given = event.get("data")
    data: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    kind = _KINDS.get(display_text(event.get("type")), "other")
    level = _LEVELS.get(display_text(data.get("risk_level")), _DEFAULT_LEVELS.get(kind, RiskLevel.MEDIUM))
    if kind == "approval":  # a person must act, however low the risk
        level = max(level, RiskLevel.MEDIUM)
    previous = _LEVELS.get(display_text(data.get("previous_level"))) if kind == "level" else None
    members = ("type", "id", "source", "subject", "time")
    event_type, event_id, source, subject, at = (display_text(event.get(name)) for name in members)
    title, fields = _title(kind, event, data, level, previous), _display_fields(kind, data)
    shown = title, fields, _reasons(data), _indicators(data), _links(data)
    return AlertContent(kind, event_type, event_id, source, subject, at, level, previous, *shown, data)


def display_text(value: Any) -> str:
    """*value* for people: one line without control characters or direction marks; lists joined; nothing for the rest.

    >>> [display_text(value) for value in ("a\\nb", 0.97, ["x", 2], None, {"a": 1}, True)]
    ['a b', '0.97', 'x, 2', '', '', 'true']
    """
    if isinstance(value, str):
        return printable_line(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        texts = [display_text(item) for item in value[:MAX_LISTED_ITEMS] if not isinstance(item, list | tuple)]
        return ", ".join(filter(None, texts))
    return ""


def text_or_empty(value: Any) -> str:
    """*value* as it is, "" if it is not text: for identities, which `text` would make equal."""
    return value if isinstance(value, str) else ""


def truncate(value: str, most: int) -> str:
    """*value* with at most *most* characters; what is cut off is marked.

    >>> truncate("abcdef", 4), truncate("abc", 4)
    ('abc…', 'abc')
    """
    return value if len(value) <= most else value[: most - 1] + "…"


def _title(
    kind: AlertKind, event: Mapping[str, Any], data: Mapping[str, Any], level: RiskLevel, previous: RiskLevel | None
) -> str:
    who = display_text(event.get("subject")) or "(unnamed)"
    if kind == "level":
        was = f" (was {previous.label})" if previous is not None else ""
        shadow = ", shadow mode" if data.get("mode") == "shadow" else ""
        return f"Risk {level.label}{was}{shadow}: {who}"
    if kind == "silence":
        return f"Silent {display_text(data.get('kind')) or 'source'}: {who}"
    if kind == "approval":
        return f"Approval wanted: {display_text(data.get('agent_id')) or who}"
    if kind == "case":
        action, verdict = display_text(data.get("action")) or "changed", display_text(data.get("verdict"))
        count = data.get("agents_count")
        agents = f"{count} agent{'' if count == 1 else 's'}" if isinstance(count, int) else "agents unknown"
        ended = f" as {verdict}" if verdict else ""
        return f"Case {action}{ended}: {agents}, highest {display_text(data.get('risk_level'))}"
    if kind == "test":
        return "TEST ALERT, nothing has happened"
    return f"{display_text(event.get('type')) or 'Alert'}: {who}"


def _display_fields(kind: AlertKind, data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    labels = _LABELS[kind] or {name: name for name in data if name not in _HIDDEN_MEMBERS}
    rows = [(display_text(label), display_text(data.get(name))) for name, label in labels.items()]
    case = data.get("case")
    agents = case.get("agents") if kind == "level" and isinstance(case, Mapping) else None
    if isinstance(case, Mapping) and isinstance(agents, int) and agents > 1:
        tie = f"; {tie}" if (tie := display_text(case.get("tie"))) else ""
        rows.insert(1, ("Case", f"{agents} agents, highest {display_text(case.get('risk_level'))}{tie}"))
    kept_back = data.get("suppressed_before")
    if isinstance(kept_back, int) and kept_back > 0 and kind != "other":
        rows.append(("Kept back before", f"{kept_back} alerts"))
    shown = [(label, value) for label, value in rows if label and value]
    for label in ("Decided", "Cause"):  # the message has its time, and its title states what happened
        if len(shown) > MAX_FIELDS:
            shown = [row for row in shown if row[0] != label]
    return tuple(shown[:MAX_FIELDS])


def _reasons(data: Mapping[str, Any]) -> tuple[str, ...]:
    given = data.get("reasons")
    listed = given if isinstance(given, list | tuple) else []
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in listed[:MAX_LISTED_ITEMS]]
    return tuple(filter(None, map(display_text, (*texts, data.get("reason"), data.get("message")))))


def _indicators(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = data.get("indicators")
    listed = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list | tuple) else []
    shown = []
    latest_first = sorted(listed, key=lambda one: display_text(one.get("at")), reverse=True)
    for indicator in sorted(latest_first, key=lambda one: display_text(one.get("status")) not in NEW_STATUSES):
        label, value = display_text(indicator.get("kind")).capitalize(), display_text(indicator.get("value"))
        said = STATUS_WORDS.get(display_text(indicator.get("status")), "")
        if label and value:
            shown.append((label, f"{value} ({said})" if said else value))
    return tuple(shown[:MAX_SHOWN_INDICATORS])


def _links(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = data.get("links")
    if not isinstance(given, Mapping):
        return ()
    named = [(display_text(name).capitalize(), url) for name, url in list(given.items())[:10] if isinstance(url, str)]
    return tuple((name, url) for name, url in named if name and _is_safe_link(url))


def _is_safe_link(url: str) -> bool:
    """Returns whether *url* may be displayed as a link: it runs no code, hides no host and breaks out of no markup."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not any(char in url for char in ' <>|"\\')
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def dedup_key(alert: AlertContent) -> str:
    """Key of what an alert is about: the same for all alerts about one agent of one issuer and tenant.

    A hash, since ids are longer than the 255 characters that targets take. Its parts are length-prefixed, so that
    two agents never share one.
    """
    parts = "".join(f"{len(part)}:{part}" for part in alert.identity)
    return f"trustwatch-{alert.kind}-{hashlib.sha256(parts.encode(errors='surrogatepass')).hexdigest()}"
