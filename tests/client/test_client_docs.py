"""docs/client.md names every count, cause and mode that there is, and shows code that works."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest

import trustwatch_client
from trustwatch_client import (
    argument_origins,
    event_sender,
    guard,
    origin_tracker,
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
        *origin_tracker.KEY_COUNTERS,
        *get_args(trust_errors.FailureCause),
        *get_args(trust_client.FailMode),
        *get_args(AnswerSource),
    ],
)
def test_every_name_is_told(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_what_the_code_imports_exists() -> None:
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trustwatch"):
                module = __import__(node.module, fromlist=["_"])
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    named = set(re.findall(r"`(?:trustwatch\.client\.)?([A-Z]\w+)`", TEXT)) & set(trustwatch_client.__all__)
    assert {"TrustClient", "AsyncTrustClient", "EventSender", "AsyncEventSender", "TrustMiddleware"} <= named
