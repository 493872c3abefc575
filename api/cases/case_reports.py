"""Cases as they are looked for, listed, shown and acted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from trustwatch.ingest.described import FLAT, REASONS, member
from trustwatch.scoring.records.cases import Case, CaseAgent, CaseEntry, SharedIndicator
from trustwatch.scoring.records.decisions import Decision, RiskReason

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

    case: Annotated[Case, FLAT]
    agents: Annotated[Sequence[CaseAgent], member("in lists at most the first three")]
    lead: Decision | None

    @property
    def reason(self) -> Annotated[str | None, member("leading reason of the decision that brought it to its level")]:
        """Leading reason of `lead`; None = it has none."""
        return self.lead.reasons[0].text if self.lead is not None and self.lead.reasons else None


class CaseInHand(NamedTuple):
    """A case that somebody acts on: all that an act needs to read."""

    case: Case
    agents: Sequence[CaseAgent]


class CaseReport(NamedTuple):
    """All that is kept of one case. *lead* brought it to its level; None = it is not stored any more."""

    case: Annotated[Case, FLAT]
    agents: Annotated[Sequence[CaseAgent], member("all agents of it")]
    shared: Annotated[Sequence[SharedIndicator], member("new targets, keys and networks of its agents")]
    entries: Annotated[Sequence[CaseEntry], member("oldest first; the newest 1,000, after an act the newest 20")]
    lead: Decision | None
    entries_before: Annotated[int | None, member("older entries, which are not among them")] = None

    @property
    def reason(self) -> Annotated[str | None, member("leading reason of the decision that brought it to its level")]:
        """Leading reason of `lead`; None = it has none."""
        return self.reasons[0].text if self.reasons else None

    @property
    def reasons(self) -> Annotated[Sequence[RiskReason], REASONS]:
        """Reasons of `lead`."""
        return () if self.lead is None else self.lead.reasons
