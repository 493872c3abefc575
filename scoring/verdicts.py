"""Verdicts from memory: what is to happen to a request of an agent, asked by hooks and gateways while they wait.

Only the current actor decides (RFC 8693: nested actors inform). The one exception is the operator's to make: the policy
book may say that whom a *critical* agent delegated to is treated as at least at some level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .interventions import ActiveInterventions
from .policy import AccessRequest, LivePolicy, PolicyBook, Verdict, evaluate_policy
from .records import AgentName, RiskLevel
from .view import RiskView, RiskViewEntry


class DecisionContext(NamedTuple):
    """What a verdict stands on, for logs, claims and audit events."""

    entry: RiskViewEntry | None  # None = never seen
    measured_level: RiskLevel
    effective_level: RiskLevel
    pinned_by: str  # id of the pin; "" = none
    ancestor: str  # the critical ancestor that raised the level; "" = none


class PolicyEvaluator:
    """Judges requests.

    Args:
        view: risk of every agent.
        policy: the book in force.
        interventions: what people ordered.
        stale: whether what the view holds of a partition (None = of agents nobody knows) may be out of date.
        now_ms: UTC milliseconds.
    """

    def __init__(
        self,
        view: RiskView,
        policy: LivePolicy,
        interventions: ActiveInterventions,
        stale: Callable[[int | None], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self.view = view
        self.policy = policy
        self.interventions = interventions
        self._is_stale = stale
        self._now_ms = now_ms
        self.critical_ancestors: Mapping[tuple[str, str, str], str] = {}
        """Agents that a critical one delegated to, and that one; kept true by a chore, empty where nobody minds."""

    def evaluate(self, question: AccessRequest) -> tuple[Verdict, DecisionContext]:
        """The verdict, and what it stands on."""
        book = self.policy.book
        known = self.context_of(question, book)
        entry = known.entry
        standing = book.effective_policy(
            question.tenant, question.issuer, question.agent_id, "" if entry is None else entry.summary.agent_type
        )
        now_ms = self._now_ms()
        approved = self.interventions.approved_scopes(
            (question.tenant, question.issuer, question.agent_id), now_ms, int(known.effective_level)
        )
        stale = self._is_stale(None if entry is None else entry.partition)
        return evaluate_policy(
            question, standing, known.effective_level, book.version, approved=approved, stale=stale
        ), known

    def context_of(self, question: AccessRequest, book: PolicyBook) -> DecisionContext:
        """Risk of the agent that asks, and what else its level follows from."""
        full = (question.tenant, question.issuer, question.agent_id)
        entry = self.view.get(*full)
        measured = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
        pin = self.interventions.active_pin(full, self._now_ms())
        if pin is not None:
            return DecisionContext(entry, measured, RiskLevel(pin.level), pin.intervention_id, "")
        ancestor = self.critical_ancestor(question, book)
        acted_on = max(measured, book.descendants) if ancestor else measured
        return DecisionContext(entry, measured, acted_on, "", ancestor if acted_on > measured else "")

    def critical_ancestor(self, question: AccessRequest, book: PolicyBook) -> str:
        """An earlier actor at `critical`, of the request or known from before; "" = none, or policy leaves them alone.

        What is known counts too: a thief leaves the chain out where it can.
        """
        if book.descendants <= RiskLevel.LOW:
            return ""
        if known := self.critical_ancestors.get((question.tenant, question.issuer, question.agent_id)):
            return known
        for ancestor in question.ancestors:
            if self.effective_level(question.tenant, question.issuer, ancestor) == RiskLevel.CRITICAL:
                return ancestor
        return ""

    def effective_level(self, tenant: str, issuer: str, agent_id: str) -> RiskLevel:
        """The level that is acted on for one agent by itself."""
        full = (tenant, issuer, agent_id)
        entry = self.view.get(*full)
        measured = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
        return self.interventions.effective_level(full, measured, self._now_ms())

    def evaluate_agent(self, name: AgentName, agent_type: str, measured: RiskLevel) -> Verdict:
        """What holds for an agent that asks for nothing: for actuators, which lower what it may ask for."""
        book = self.policy.book
        full = (name.tenant, name.issuer, name.agent_id)
        question = AccessRequest(*full)
        if self.interventions.active_pin(full, self._now_ms()) is None and self.critical_ancestor(question, book):
            level = max(measured, book.descendants)
        else:
            level = self.interventions.effective_level(full, measured, self._now_ms())
        return evaluate_policy(question, book.effective_policy(*full, agent_type), level, book.version)
