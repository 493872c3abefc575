"""A line for each change of level."""

from __future__ import annotations

import msgspec
from structlog.testing import capture_logs
from trustwatch.api.service.decision_log import log_decisions

from tests.support.stored_rows import decision, name


def test_a_decision_has_its_line() -> None:
    """Whose level, from what to what, and why; no reason, principal or resource, which the decision itself holds."""
    one = msgspec.structs.replace(decision(7, name("bot")), previous_level=1, level=4, counterfactual="john@example")
    with capture_logs() as lines:
        log_decisions([one])

    (line,) = lines
    assert (line["event"], line["log_level"], line["decision_id"]) == ("decision", "info", "D7")
    assert (line["tenant"], line["issuer"], line["agent_id"]) == ("acme", "https://as", "bot")
    assert (line["before"], line["level"], line["cause"], line["mode"]) == ("low", "critical", "event", "enforce")
    assert "john@example" not in str(line)
