"""The risk view: latest committed risk by agent, narrowed to what a caller may see, bounded."""

from __future__ import annotations

from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary


def summary(
    number: int, level: int = 1, at: int = 0, tenant: str = "acme", issuer: str = "i", name: str = ""
) -> AgentSummary:
    who = AgentName(number, tenant, issuer, name or f"a{number}")
    return AgentSummary(who, "T", level, 0.1, 0.5, 0.5, 0, at, at, 0, 1, "", b"[]", "")


def test_latest_commit_wins_and_drops_the_encoded_answer() -> None:
    """An update replaces the agent's summary and forgets the answer that was encoded from the old one."""
    view = RiskView()
    view.apply([summary(1)])
    entry = view.get("acme", "i", "a1")
    assert entry is not None
    entry.cached_answer = b"old"
    view.apply([summary(1, level=3)])
    again = view.get("acme", "i", "a1")
    assert again is entry
    assert (entry.summary.level, entry.cached_answer, len(view)) == (3, None, 1)


def test_find_shows_only_the_callers_tenants() -> None:
    """Agents of one id at several tenants and issuers are told apart; those of other tenants do not exist."""
    view = RiskView()
    view.apply([summary(1, name="x"), summary(2, name="x", issuer="j"), summary(3, name="x", tenant="evil")])

    def keys(*narrow: object) -> list[int]:
        return sorted(entry.summary.name.key for entry in view.find_by_id("x", *narrow))  # type: ignore[arg-type]

    assert keys(None, None, None) == [1, 2, 3]
    assert keys(None, None, {"acme"}) == [1, 2]
    assert keys("evil", None, {"acme"}) == []
    assert keys(None, "j", {"acme"}) == [2]
    assert view.find_by_id("nobody", None, None, None) == []
