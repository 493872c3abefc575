"""Cursors that are none of ours: 400 on every list, never a failure of the service."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from trustwatch.api.console.console_sessions import issue_login_code
from trustwatch.api.settings.service_settings import ConsoleSettings
from trustwatch.scoring.store.database import to_cursor

LISTS = (
    "/v1/acts",
    "/v1/agents",
    "/v1/decisions",
    "/v1/interventions",
    "/v1/approvals",
    "/v1/actuations",
    "/v1/dead-letters",
    "/v1/deliveries",
    "/v1/feedback",
    "/v1/privacy/erasures",
)
CURSORS = {
    "no base64": "garbage!",
    "no JSON": base64.urlsafe_b64encode(b"{").decode().rstrip("="),
    "another shape": to_cursor([1]),
    "a number beyond 64 bits": to_cursor([2**63, "x"]),
    "a number far beyond": to_cursor([10**400, "x"]),
    "a number below": to_cursor([-(2**63) - 1, "x"]),
    "a number beyond, three values": to_cursor([2**63, "x", 2**63]),
    "a text with NUL": to_cursor([1, "a\0b"]),
    "texts with NUL": to_cursor(["a\0b", "", ""]),
    "half a character": base64.urlsafe_b64encode(b'[1,"\\ud800"]').decode().rstrip("="),
    "a list in place of a text": to_cursor([1, ["x"]]),
    "truth in place of a number": to_cursor([True, "x"]),
    "deep": base64.urlsafe_b64encode(b"[" * 3000).decode().rstrip("="),
    "not ASCII": "é",
    "empty": "",
}


@pytest.mark.parametrize("path", LISTS)
def test_a_bad_cursor_is_the_callers_error(shared: Any, path: str) -> None:
    wrong = {}
    for name, cursor in CURSORS.items():
        answer = shared.get(path, "all", cursor=cursor)
        if (answer.status_code, answer.json().get("code")) != (400, "invalid_cursor"):
            wrong[name] = (answer.status_code, answer.text[:200])

    assert not wrong


@pytest.mark.parametrize("page", ["agents", "decisions", "approvals", "feedback", "alerts", "dead-letters"])
def test_a_bad_cursor_in_the_address_of_a_page(new_site: Any, page: str) -> None:
    site = new_site(console=ConsoleSettings(enabled=True, development_login=True))
    code = issue_login_code(site.settings.data_dir, site.clock())
    assert site.client.get("/console/dev-login", params={"code": code}).status_code == 303

    statuses = {
        site.client.get(f"/console/{page}", params={"cursor": cursor}).status_code
        for cursor in CURSORS.values()
        if cursor
    }

    assert statuses == {400}
