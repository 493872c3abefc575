"""Cases for people: choices of their forms, why each is there, and moments that are told as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from trustwatch.scoring.records.cases import CaseAgent
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.case_assignment import tie_words

from ...cases.timeline import TimelineItem

STATUS_CHOICES = (
    ("unresolved", "not closed"),
    ("open", "open"),
    ("acknowledged", "acknowledged"),
    ("contained", "contained"),
    ("closed", "closed"),
)
SNOOZE_CHOICES = ((3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"), (0, "end it now"))
PIN_CHOICES = ((3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))


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


def lead_reason(lead: Decision | None) -> str:
    """Leading reason of the decision that brought a case to its level."""
    if lead is None:
        return "the decision is not kept any more"
    concrete = [reason.text for reason in lead.reasons if reason.feature != "session_strangeness"]
    return (concrete or [reason.text for reason in lead.reasons] or [f"cause: {lead.cause}"])[0]


def why_here(agent: CaseAgent) -> str:
    """Words for what put an agent into its case."""
    return tie_words(agent.tie, agent.tied_by) or "it rose first"
