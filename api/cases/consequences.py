"""Consequences of what people do to a case, in the words that the console says before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from trustwatch.scoring.policy.book import SHADOW, PolicyBook
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.cases import Case, CaseAgent

VERDICT_CHOICES: Final = (
    ("true", "True: there was trouble", "Its windows are kept out of training."),
    ("false", "False: there was none", "Give feedback on its decisions, too, so that it does not come again."),
    ("expected", "Expected: it was planned", "A drill, a migration, a test."),
)


class ContainmentEffect(NamedTuple):
    """Effect of acting on an agent as critical, in words."""

    agent: CaseAgent
    words: str


def case_title(case: Case, agents: Sequence[CaseAgent]) -> str:
    """Title of a case: its first agents, and how many more."""
    named = [one.agent.agent_id for one in agents[:2]]
    more = case.agents - len(named)
    return (", ".join(named) or "no agent") + (f" and {more} more" if more > 0 else "")


def containment_effects(
    agents: Sequence[CaseAgent], book: PolicyBook, told_to: Callable[[AgentName], Sequence[str]]
) -> list[ContainmentEffect]:
    """Effects of acting on each agent as critical, at that agent's server."""
    return [ContainmentEffect(one, _effect(one, book, told_to(one.agent))) for one in agents]


def _effect(one: CaseAgent, book: PolicyBook, servers: Sequence[str]) -> str:
    name = one.agent
    effective = book.effective_policy(*name.identity, one.agent_type)
    policy = effective.table[RiskLevel.CRITICAL]
    if effective.mode == SHADOW:
        return "is recorded and not acted on: its tenant is in shadow mode. Stop it at its authorization server."
    tokens = "no new tokens" if not policy.allow else f"new tokens of at most {policy.max_token_lifetime_s} s"
    revoked = ", and those it has are revoked" if policy.revoke else ""
    if not servers:
        where = "where hooks and gateways ask; no actuator serves its issuer, so its server is not told"
    else:
        where = f"at {', '.join(servers)}, and where hooks and gateways ask"
    return f"gets {tokens}{revoked}: {where}."
