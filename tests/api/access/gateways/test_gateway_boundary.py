"""Gateways: a call by MCP whose tool lies outside of what its agent declares."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary


def bounded(new_desk: Callable[..., Any], outside: Any, **given: Any) -> Any:
    desk = new_desk(**given)
    desk.agent()
    table = {"admin": ("delete_*",)}
    desk.guard.policy_evaluator.boundary = DeclaredBoundary(lambda *_: ("pay", "loo?_*"), outside, table)
    return desk


def check(desk: Any, way: str, headers: dict[str, str], **claims: Any) -> Any:
    token = desk.issuer.token(**claims)
    if way == "envoy":
        return desk.envoy(token, "POST", headers=headers)
    return desk.forward(token, "POST", **headers)


def tool(name: str) -> dict[str, str]:
    return {"mcp-method": "tools/call", "mcp-name": name}


@pytest.mark.parametrize("way", ["envoy", "forward"])
@pytest.mark.parametrize(("outside", "status"), [("record", 200), ("step_up", 401), ("deny", 403)])
def test_a_tool_outside_is_answered_as_the_settings_say(
    new_desk: Callable[..., Any], way: str, outside: str, status: int
) -> None:
    desk = bounded(new_desk, outside)
    for headers in (tool("pay"), tool("look_up"), {"mcp-method": "tools/list"}, {}):
        assert check(desk, way, headers).status_code == 200
    assert desk.events() == []
    encoded = "=?base64?" + b64encode("löschen".encode()).decode() + "?="
    for name in ("delete_everything", encoded, ""):
        assert check(desk, way, tool(name)).status_code == status, name
    assert check(desk, way, {"mcp-method": "resources/read"}).status_code == status
    told = [event for event in desk.events() if event["type"] == "api.call"]
    assert [event["action"] for event in told] == ["delete_everything", "löschen", "tools/call", "resources/read"]
    assert all(event["attributes"]["outside_boundary"] for event in told)
    waiting = {scope for one in desk.asked() for scope in one.scopes}
    assert waiting == ({event["action"] for event in told} if outside == "step_up" else set())


def test_a_scope_of_the_token_covers_by_the_table_alone(new_desk: Callable[..., Any]) -> None:
    desk = bounded(new_desk, "deny")
    assert check(desk, "envoy", tool("delete_one"), scope="tools:read admin").status_code == 200
    assert check(desk, "envoy", tool("delete_one"), scope="tools:read delete_one").status_code == 403


def test_two_methods_are_no_way_out(new_desk: Callable[..., Any]) -> None:
    desk = bounded(new_desk, "deny")
    token = desk.issuer.token()
    twice = [("authorization", f"Bearer {token}"), ("mcp-method", "tools/list"), ("mcp-method", "tools/call")]
    assert desk.send("POST", "/ext-authz/mcp", twice).status_code == 403
