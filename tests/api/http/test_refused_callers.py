"""Known callers that reach beyond their entry of the settings: counted and told, and no flood hides another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from structlog.testing import capture_logs

from trustwatch.api.http.refused_callers import (
    CALLER_OF_REQUEST,
    LINES_PER_CALLER_S,
    LINES_PER_S,
    LINES_UNLISTED_S,
    MAX_ASKED_LENGTH,
    MAX_LIMITS,
    OrderLines,
    RefusedCallers,
)
from trustwatch.scoring.records.agents import AgentName

AS = "https://as.example"
EVENT = "a caller reaches beyond its entry"


def caller(name: str) -> Any:
    return SimpleNamespace(name=name, issuer=AS, client_id=f"{name}-client", subject="subject")


def scope(known: Any, path: str = "/v1/decisions", query: str = "") -> dict[str, Any]:
    more = {} if known is None else {CALLER_OF_REQUEST: known}
    return {"method": "GET", "raw_path": path.encode(), "query_string": query.encode(), **more}


def test_who_asked_for_what_is_told() -> None:
    """The caller, tenant and agent of the request; no name of a principal, which stands in paths, too."""
    refused = RefusedCallers(lambda: 0.0)
    path = f"/v1/agents/{quote('spiffe://x/a', safe='')}/pin"
    with capture_logs() as lines:
        refused.tell_of(scope(caller("soc"), path, "tenant=globex&x=1"), "tenant_not_allowed", "not bound")
        refused.tell_of(scope(caller("soc"), "/v1/principals/jo@x/export"), "insufficient_scope", "lacks")
    assert lines[0] == {
        "event": EVENT,
        "log_level": "warning",
        "code": "tenant_not_allowed",
        "caller": "soc",
        "client_id": "soc-client",
        "subject": "subject",
        "why": "not bound",
        "method": "GET",
        "tenant": "globex",
        "agent_id": "spiffe://x/a",
    }
    assert lines[1]["agent_id"] is None and "jo@x" not in str(lines)
    assert refused.counts == {("soc", "tenant_not_allowed"): 1, ("soc", "insufficient_scope"): 1}


def test_a_token_that_is_not_accepted_is_told() -> None:
    """With the check that failed; a request without one is no line, and a flood of wrong ones is bounded."""
    refused = RefusedCallers(lambda: 0.0)
    with capture_logs() as lines:
        refused.tell_of(scope(None), "missing_token", "the request has no bearer token")
        refused.tell_of(scope(None), "invalid_token", "the token has expired")
        for _ in range(50):
            refused.tell_of_token("ext_authz", "the signature of the token is wrong")
    told = {"event": "a token is not accepted", "log_level": "warning", "code": "invalid_token"}
    assert lines[0] == told | {"via": "api", "why": "the token has expired"}
    assert lines[1] == told | {"via": "ext_authz", "why": "the signature of the token is wrong"}
    assert len(lines) == LINES_PER_S and refused.counts == {}


def test_a_flood_hides_no_other_caller() -> None:
    """Lines are bounded for each caller, and say how many were left out; the counters have all."""
    second = 0.0
    refused = RefusedCallers(lambda: second)
    with capture_logs() as lines:
        for _ in range(1000):
            refused.tell_of(scope(caller("noisy")), "insufficient_scope", "x" * 10_000)
        refused.tell_of(scope(caller("quiet")), "own_decision", "a caller cannot decide about itself")
        second = 1.0
        refused.tell_of(scope(caller("noisy")), "insufficient_scope", "x")
    by_caller = [line["caller"] for line in lines]
    assert by_caller == ["noisy"] * LINES_PER_CALLER_S + ["quiet", "noisy"]
    assert lines[-1]["left_out"] == 1000 - LINES_PER_CALLER_S
    assert refused.counts["noisy", "insufficient_scope"] == 1001
    assert max(len(str(line)) for line in lines) < 1000


def stranger(client_id: str, subject: str = "s", issuer: str = AS) -> Any:
    return SimpleNamespace(name="", issuer=issuer, client_id=client_id, subject=subject)


def test_a_caller_without_an_entry_hides_no_other() -> None:
    """They are told apart by client, else by subject, at each issuer; in the metrics they are one."""
    refused = RefusedCallers(lambda: 0.0)
    others = [stranger("quiet"), stranger("", "bot"), stranger("noisy", issuer="https://other.example")]
    with capture_logs() as lines:
        for number in range(1000):
            refused.tell_of(scope(stranger("noisy", f"s{number}")), "tenant_not_allowed", "bound to no tenant")
        for other in others:
            refused.tell_of(scope(other), "tenant_not_allowed", "bound to no tenant")
    assert len(lines) == LINES_PER_CALLER_S + len(others)
    assert [line["client_id"] for line in lines[LINES_PER_CALLER_S:]] == ["quiet", None, "noisy"]
    assert refused.counts == {("(no entry)", "tenant_not_allowed"): 1003}


def test_callers_without_an_entry_are_bounded() -> None:
    """An issuer may have any number of them, with names of any length: lines and limits do not grow with it."""
    second = 0.0
    refused = RefusedCallers(lambda: second)
    with capture_logs() as lines:
        for number in range(3 * MAX_LIMITS):
            who = f"{number}-" + "x" * 10_000
            refused.tell_of(scope(stranger(who, who)), "tenant_not_allowed", "bound to no tenant")
        assert len(lines) == LINES_UNLISTED_S
        refused.tell_of(scope(caller("soc")), "tenant_not_allowed", "bound to another one")
        second = 1.0
        refused.tell_of(scope(stranger("late")), "tenant_not_allowed", "bound to no tenant")
    assert max(len(line["client_id"]) for line in lines) == max(len(line["subject"]) for line in lines)
    assert max(len(line["subject"]) for line in lines) == MAX_ASKED_LENGTH
    assert [line["caller"] for line in lines[-2:]] == ["soc", "(no entry)"]
    assert lines[-1]["left_out"] == 3 * MAX_LIMITS - LINES_UNLISTED_S
    assert len(refused._unlisted_limits) <= MAX_LIMITS


def test_persons_are_named_in_the_log_alone() -> None:
    """Metrics are read by many, and a label for each person would have no bound."""
    refused = RefusedCallers(lambda: 0.0)
    with capture_logs() as lines:
        for number in range(2 * MAX_LIMITS):
            refused.tell_of(scope(caller(f"console:{number}")), "own_decision", "a caller cannot decide about itself")
    assert refused.counts == {("console", "own_decision"): 2 * MAX_LIMITS}
    assert [line["caller"] for line in lines[:2]] == ["console:0", "console:1"]


def test_persons_are_bounded() -> None:
    """A provider of identities may have any number of them; they hide no caller, and no caller hides them."""
    second = 0.0
    refused = RefusedCallers(lambda: second)
    with capture_logs() as lines:
        for _ in range(1000):
            refused.tell_of(scope(caller("noisy")), "insufficient_scope", "lacks")
        for number in range(3 * MAX_LIMITS):
            refused.tell_of(scope(caller(f"console:{number}-{'x' * 1000}")), "own_decision", "nobody does")
        assert len(lines) == LINES_PER_CALLER_S + LINES_UNLISTED_S
        refused.tell_of(scope(caller("noisy")), "insufficient_scope", "lacks")
        refused.tell_of(scope(stranger("quiet")), "tenant_not_allowed", "bound to no tenant")
        assert len(lines) == LINES_PER_CALLER_S + LINES_UNLISTED_S + 1
        second = 1.0
        refused.tell_of(scope(caller("console:late")), "own_decision", "nobody does")
    assert [line["caller"] for line in lines[-2:]] == ["(no entry)", "console:late"]
    assert lines[-1]["left_out"] == 3 * MAX_LIMITS - LINES_UNLISTED_S
    assert len(refused._person_limits) <= MAX_LIMITS and list(refused._limits) == [("noisy",)]


def test_other_problems_and_unknown_callers_are_no_reach() -> None:
    refused = RefusedCallers(lambda: 0.0)
    refused.tell_of(scope(caller("soc")), "invalid_request", "wrong")
    refused.tell_of(scope(caller("soc")), "not_found", "gone")
    refused.tell_of(scope(None), "insufficient_scope", "lacks")
    assert refused.counts == {}


def test_what_agents_ask_for_hides_no_order_of_a_person() -> None:
    """Approvals that are asked for, or expire, have a bound of their own."""
    orders, agent = OrderLines(lambda: 0.0), AgentName(1, "acme", "https://as.example", "bot")
    with capture_logs() as lines:
        for number in range(100):
            orders.write(agent, "approval.request" if number % 2 else "approval.expire", "bot", "a")
        orders.write(agent, "pin", "soc", "p")
    assert len(lines) == LINES_PER_S + 1
    assert (lines[-1]["action"], lines[-1]["by"], lines[-1]["agent_id"]) == ("pin", "soc", "bot")
