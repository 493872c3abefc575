"""Links from alerts to the pages of the console where a person goes on: those of the API need a token."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .alert_events import ALERT_TYPE, APPROVAL_TYPE, CASE_TYPE, DRIFT_ALERT_TYPE, IDENTITY_CONFLICT_TYPE, TEST_TYPE

_PAGES = {
    APPROVAL_TYPE: "approvals",
    DRIFT_ALERT_TYPE: "models",
    IDENTITY_CONFLICT_TYPE: "dead-letters",
    TEST_TYPE: "alerts",
}
"""Pages by type of alert; others are about what the overview shows."""


def with_console_link(event: dict[str, Any], console: str) -> dict[str, Any]:
    """*event* (an alert's CloudEvent) with its page of the console as the first link.

    Args:
        event: members that are not what they should be stay as they are.
        console: URL of the console, without a slash at its end; "" = there is none.
    """
    data = event.get("data")
    if not console or not isinstance(data, dict):
        return event
    links = data.get("links")
    more = links if isinstance(links, dict) else {}
    return {**event, "data": {**data, "links": {"console": f"{console}/{_page(event, data)}", **more}}}


def _page(event: dict[str, Any], data: dict[str, Any]) -> str:
    case_id = _case_id(event, data)
    if case_id:
        return f"cases/{quote(case_id, safe='')}"
    decision_id = data.get("decision_id")
    if event.get("type") == ALERT_TYPE and isinstance(decision_id, str) and decision_id:
        return f"decisions/{quote(decision_id, safe='')}"
    return _PAGES.get(str(event.get("type")), "")


def _case_id(event: dict[str, Any], data: dict[str, Any]) -> str:
    """The case that an alert is about or belongs to; "" = none."""
    within = data if event.get("type") == CASE_TYPE else data.get("case")
    case_id = within.get("case_id") if isinstance(within, dict) else None
    return case_id if isinstance(case_id, str) else ""
