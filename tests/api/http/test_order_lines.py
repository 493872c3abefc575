"""Lines about orders: those of people are there, whatever agents do."""

from __future__ import annotations

from structlog.testing import capture_logs

from trustwatch.api.http.refused_callers import LINES_PER_S, OrderLines
from trustwatch.scoring.records.agents import AgentName


def test_what_agents_ask_for_hides_no_order_of_a_person() -> None:
    """Approvals that are asked for, or expire, have a bound of their own."""
    orders, agent = OrderLines(lambda: 0.0), AgentName(1, "acme", "https://as.example", "bot")
    with capture_logs() as lines:
        for number in range(100):
            orders.write(agent, "approval.request" if number % 2 else "approval.expire", "bot", "a")
        orders.write(agent, "pin", "soc", "p")
    assert len(lines) == LINES_PER_S + 1
    assert (lines[-1]["action"], lines[-1]["by"], lines[-1]["agent_id"]) == ("pin", "soc", "bot")
