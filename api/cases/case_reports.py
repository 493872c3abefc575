"""Cases as they are looked for, listed, shown and acted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trustwatch.scoring.records.cases import Case, CaseAgent, CaseEntry, SharedIndicator
from trustwatch.scoring.records.decisions import Decision

from ..http.agent_lookup import AgentSelector


class CaseSearch(NamedTuple):
    """Filters as a request says them; "" and 0 = all. *status* may be `unresolved`: all that is not closed."""

    status: str = ""
    owner: str = ""
    level: str = ""
    agent: AgentSelector | None = None
    tenant: str = ""
    since_ms: int = 0
    until_ms: int = 0


class ListedCase(NamedTuple):
    """A case of a list, with its first agents and the decision that brought it to its level."""

    case: Case
    agents: Sequence[CaseAgent]
    lead: Decision | None


class CaseInHand(NamedTuple):
    """A case that somebody acts on: all that an act needs to read."""

    case: Case
    agents: Sequence[CaseAgent]


class CaseReport(NamedTuple):
    """All that is kept of one case.

    Attributes:
        lead: the decision that brought it to its level; None = it is not stored any more.
        shared: new targets, keys and networks of its agents.
        entries: the newest, oldest first.
        entries_before: number of older ones; None = none were read, so nobody knows.
    """

    case: Case
    agents: Sequence[CaseAgent]
    shared: Sequence[SharedIndicator]
    entries: Sequence[CaseEntry]
    lead: Decision | None
    entries_before: int | None = None
