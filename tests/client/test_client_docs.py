"""docs/client.md names every count, cause and mode that there is, and shows code that works."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest

import trustwatch_client
from trustwatch_client import (
    argument_origins,
    asgi,
    call_verdicts,
    event_sender,
    guard,
    mcp,
    origin_keys,
    settings,
    trust_client,
    trust_errors,
)
from trustwatch_client.risk_answers import AnswerSource

from ..support.checkout import DOCS

PAGE = (DOCS / "client.md").read_text()
TEXT = " ".join(PAGE.split())
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    "name",
    [
        *trust_client.LOOKUP_COUNTERS,
        *event_sender.SENDER_COUNTERS,
        *guard.GUARD_COUNTERS,
        *argument_origins.ORIGIN_COUNTERS,
        *origin_keys.KEY_COUNTERS,
        *get_args(trust_errors.FailureCause),
        *get_args(settings.FailMode),
        *get_args(AnswerSource),
    ],
)
def test_every_name_is_told(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_figures_are_the_defaults() -> None:
    risk, send = settings.RiskSettings(fail_mode="open"), settings.SenderSettings()

    assert f"`budget_s` ({risk.budget_s * 1000:.0f} ms)" in TEXT
    assert f"`cache_s` ({risk.cache_s:.0f} s)" in TEXT
    assert f"`pause_s` ({risk.pause_s} s)" in TEXT
    assert f"`last_known_s` ({risk.last_known_s:.0f} s)" in TEXT
    assert f"up to {send.batch_events} events or {send.batch_bytes >> 20} MiB, after at most {send.linger_s} s" in TEXT
    assert f"{send.queue_size:,} events wait at most" in TEXT
    limits = argument_origins.OriginLimits()
    assert f"{limits.characters:,} characters of a conversation" in TEXT
    assert f"{limits.total_characters:,} in all, {limits.conversations} conversations, {limits.sent} arguments" in TEXT
    assert f"asked again after {origin_keys.RETRY_S:.0f} s" in TEXT
    assert f"`budget_s` ({call_verdicts.BUDGET_S} s, a token" in TEXT
    assert f"up to {asgi.MAX_BODY_BYTES >> 10} KiB" in TEXT
    assert f"code {mcp.ACCESS_REFUSED}" in TEXT
    assert risk.unknown_policy.max_token_lifetime_s == 300


def test_what_the_code_imports_exists() -> None:
    """Every block parses, and every name that it takes from the client is there."""
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trustwatch"):
                module = __import__(node.module, fromlist=["_"])
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    named = set(re.findall(r"`(?:trustwatch\.client\.)?([A-Z]\w+)`", TEXT)) & set(trustwatch_client.__all__)
    assert {"TrustClient", "AsyncTrustClient", "EventSender", "AsyncEventSender", "TrustMiddleware"} <= named
