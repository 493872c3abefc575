"""A line for each change of level."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from tests.support.stored_rows import decision, name
from trustwatch.api.service.pipeline_worker import log_decisions
from trustwatch.api.structured_logs import configure_structured_logs


@pytest.fixture
def written_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as a process writes it: what becomes of a member's name shows only there."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = structlog.get_config()
    configure_structured_logs("info", "json")
    yield written
    structlog.configure(**before)


def test_a_decision_has_its_line(written_log: io.StringIO) -> None:
    one = msgspec.structs.replace(decision(7, name("bot")), previous_level=1, level=4, counterfactual="john@example")
    log_decisions([one])

    (text,) = written_log.getvalue().splitlines()
    line = json.loads(text)
    assert (line["event"], line["level"], line["decision_id"]) == ("decision", "info", "D7")
    assert (line["tenant"], line["issuer"], line["agent_id"]) == ("acme", "https://as", "bot")
    assert (line["before"], line["risk_level"], line["cause"], line["mode"]) == ("low", "critical", "event", "enforce")
    assert "john@example" not in text
