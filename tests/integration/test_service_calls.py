"""A real service is asked about calls while its pipeline hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

QUESTION = {
    "action": "never-seen-before",
    "effect": "delete",
    "resource": {"target": "elsewhere.example", "external": True},
    "arguments": [{"name": "to", "origin": "tool", "from": 0, "untrusted": True, "hash": "f" * 12}],
}


def ask(service: Any) -> dict[str, Any]:
    answer = service.client.post(
        "/v1/agents/somebody/calls/evaluate", json=QUESTION, params={"tenant": "acme-corp"}, headers=service.auth()
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_calls_are_judged_while_the_pipeline_hangs(make_service: Callable[..., Any]) -> None:
    """By the model that was loaded at the start, and alike; the answer says that risk may be out of date."""
    service = make_service("risk: {staleness_s: 1.5}\n")
    service.start()
    before, pid = ask(service), service.pipeline_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        service.wait(lambda: ask(service)["stale"] is True)
        without = ask(service)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert before["basis"] == without["basis"] == "model"
    for member in ("decision", "p_value", "anomaly_score", "call", "model_version"):
        assert without[member] == before[member]
