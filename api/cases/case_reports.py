"""Cases as they are looked for, listed, shown and acted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple, get_args

from trustwatch.ingest.described import FLAT, REASONS, member
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.cases import Case, CaseAgent, CaseEntry, CaseStatus, CaseVerdict, SharedIndicator
from trustwatch.scoring.records.decisions import Decision, RiskReason

from ..http.agent_lookup import AgentSelector
from ..http.problems import ProblemDetails, ProblemError, invalid_value_error
from ..http.separation_of_duties import check_reason


class CaseSearch(NamedTuple):
    """Filters of a request; "" and 0 = all. *status* may be `unresolved`: every case that is not closed."""

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
    agents: Annotated[Sequence[CaseAgent], member("agents; in lists, at most the first three")]
    lead: Decision | None

    @property
    def reason(self) -> Annotated[str | None, member("main reason of the decision that raised it to its level")]:
        """Leading reason of `lead`; None = it has none."""
        return self.lead.reasons[0].text if self.lead is not None and self.lead.reasons else None


class CaseInHand(NamedTuple):
    """A case that a person acts on, with everything that an act needs to read."""

    case: Case
    agents: Sequence[CaseAgent]


class CaseReport(NamedTuple):
    """All that is kept of one case. *lead* brought it to its level; None = it is not stored any more."""

    case: Annotated[Case, FLAT]
    agents: Annotated[Sequence[CaseAgent], member("all agents of the case")]
    shared: Annotated[Sequence[SharedIndicator], member("new targets, keys and networks of its agents")]
    entries: Annotated[Sequence[CaseEntry], member("oldest first; the newest 1,000, after an act the newest 20")]
    lead: Decision | None
    entries_before: Annotated[int | None, member("number of older entries that are not included")] = None

    @property
    def reason(self) -> Annotated[str | None, member("main reason of the decision that raised it to its level")]:
        """Leading reason of `lead`; None = it has none."""
        return self.reasons[0].text if self.reasons else None

    @property
    def reasons(self) -> Annotated[Sequence[RiskReason], REASONS]:
        """Reasons of `lead`."""
        return () if self.lead is None else self.lead.reasons


# Checks of requests about cases, and the answers to invalid ones.

MAX_OWNER_LENGTH: Final = 256
MIN_SNOOZE_S, MAX_SNOOZE_S = 60.0, 30 * 86_400.0
MIN_HOLD_S, MAX_HOLD_S = 60.0, 30 * 86_400.0  # For how long the pins of a contained case may hold, s
VERDICTS: Final[tuple[CaseVerdict, ...]] = get_args(CaseVerdict)
OPEN_STATUSES: Final[tuple[CaseStatus, ...]] = ("open", "acknowledged", "contained")


def statuses(word: str) -> tuple[CaseStatus, ...]:
    """Statuses that a filter means; () = all. Raises ProblemError (422)."""
    if word == "unresolved":
        return OPEN_STATUSES
    every: tuple[CaseStatus, ...] = (*OPEN_STATUSES, "closed")
    if word and word not in every:
        raise invalid_value_error("status", f"must be unresolved, {', '.join(every)}")
    return tuple(status for status in every if status == word)


def least_level(word: str) -> int:
    """Level that a filter means; 0 = any. Raises ProblemError (422)."""
    if not word:
        return 0
    level = RiskLevel.__members__.get(word.upper())
    if level is None or level < RiskLevel.MEDIUM:
        raise invalid_value_error("level", "must be medium, high or critical: nothing lower opens a case")
    return int(level)


def chosen_agents(case_agents: Sequence[CaseAgent], selectors: Sequence[AgentSelector]) -> list[AgentName]:
    """Agents of a case that are to leave it. Raises ProblemError (422): not in it, or all of it."""
    chosen: dict[int, AgentName] = {}
    for selector in selectors:
        fitting = [
            case_agent.agent
            for case_agent in case_agents
            if case_agent.agent.agent_id == selector.agent_id and selector.issuer in (None, case_agent.agent.issuer)
        ]
        if len(fitting) != 1:
            count = "no agent" if not fitting else "several agents, name the issuer,"
            raise invalid_value_error("agents", f"{count} of the case with the id {selector.agent_id!r}")
        chosen[fitting[0].key] = fitting[0]
    if not chosen:
        raise invalid_value_error("agents", "is empty: name who is to leave the case")
    if len(chosen) == len(case_agents):
        raise invalid_value_error("agents", "are all agents of the case: nothing would be left of it")
    return list(chosen.values())


def check_note(note: str, *, required: bool) -> None:
    """Raise ProblemError (422) for a note that is too long, or missing if one is required."""
    check_reason("note", note, required=required, kept_with="the case")


def conflict_error(code: str, detail: str) -> ProblemError:
    """409: the case, as it is now, does not allow it."""
    return ProblemError(ProblemDetails(409, code, "Not possible now", detail))


def changed_error(case_id: str) -> ProblemError:
    """409: another caller changed it first."""
    return conflict_error("case_changed", f"case {case_id} was changed meanwhile: look at it again, nothing was done")
