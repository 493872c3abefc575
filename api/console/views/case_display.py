"""Cases for people: what each is called, and what containing it will do at which server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from ....scoring.policy.book import SHADOW, PolicyBook
from ....scoring.records.agents import AgentName, RiskLevel
from ....scoring.records.cases import Case, CaseAgent
from ....scoring.records.decisions import Decision
from ....scoring.store.case_assignment import tie_words
from ...cases.timeline import TimelineItem

STATUS_CHOICES = (
    ("unresolved", "not closed"),
    ("open", "open"),
    ("acknowledged", "acknowledged"),
    ("contained", "contained"),
    ("closed", "closed"),
)
VERDICT_CHOICES = (
    ("true", "True: there was trouble", "Its windows are kept out of training."),
    ("false", "False: there was none", "Give feedback on its decisions, too, so that it does not come again."),
    ("expected", "Expected: it was planned", "A drill, a migration, a test."),
)
SNOOZE_CHOICES = ((3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"), (0, "end it now"))
PIN_CHOICES = ((3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))


class ContainmentEffect(NamedTuple):
    """Effect of acting on an agent as critical, in words."""

    agent: CaseAgent
    words: str


class LikeMoments(NamedTuple):
    """Moments that follow each other and differ in little, told as one: (id to link to, what happened)."""

    moments: tuple[tuple[str, TimelineItem], ...]

    @property
    def first(self) -> tuple[str, TimelineItem]:
        """The first of them."""
        return self.moments[0]

    @property
    def last_ms(self) -> int:
        """Time of the last of them."""
        return self.moments[-1][1].at_ms


def group_alike(moments: Sequence[tuple[str, TimelineItem]]) -> list[LikeMoments]:
    """Moments in order; events of one agent in a row that came with the same things are one entry."""

    def kind_of(moment: tuple[str, TimelineItem]) -> object:
        name, item = moment
        return (item.kind, item.agent_id, item.indicators) if item.kind in ("event", "token") else name

    return [LikeMoments(tuple(run)) for _, run in groupby(moments, kind_of)]


def case_title(case: Case, agents: Sequence[CaseAgent]) -> str:
    """Title of a case: its first agents, and how many more."""
    named = [one.agent.agent_id for one in agents[:2]]
    more = case.agents - len(named)
    return (", ".join(named) or "no agent") + (f" and {more} more" if more > 0 else "")


def lead_reason(lead: Decision | None) -> str:
    """Leading reason of the decision that brought a case to its level."""
    if lead is None:
        return "the decision is not kept any more"
    concrete = [reason.text for reason in lead.reasons if reason.feature != "session_strangeness"]
    return (concrete or [reason.text for reason in lead.reasons] or [f"cause: {lead.cause}"])[0]


def why_here(agent: CaseAgent) -> str:
    """Words for what put an agent into its case."""
    return tie_words(agent.tie, agent.tied_by) or "it rose first"


def containment_effects(
    agents: Sequence[CaseAgent], book: PolicyBook, told_to: Callable[[AgentName], Sequence[str]]
) -> list[ContainmentEffect]:
    """Effects of acting on each agent as critical, at that agent's server.

    Args:
        agents: of a case.
        book: policies in force.
        told_to: actuators that serve an agent.
    """
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
