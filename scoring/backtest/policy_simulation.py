"""A token policy applied to each request of a history: its answers, and the agents whose tokens it would have revoked.

A request is judged at the level that its agent had just before it, as an authorization server or gateway would have
received it. The policy is applied as if it were enforced for all agents; whether it is, is reported separately. Nothing
is undone: an agent's actions after a refusal are in the history, and still count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import full_name
from trustwatch.ingest.events import EVENT_TYPES
from trustwatch.ingest.features import layout
from trustwatch.ingest.printable_text import number_text
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.detector import FAMILIAR_EVENTS
from trustwatch.models.input_checks import Flags

from ..engine import risk
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..engine.settings import AlertBudget
from ..policy.access_evaluation import ALLOWED, STEP_UP, AccessRequest, evaluate_policy
from ..policy.book import ENFORCE, EffectivePolicy, PolicyBook
from ..records.agents import ALERTING_LEVELS, AgentIdentity, AgentName, RiskLevel
from ..records.decisions import Decision


class BacktestAlert(NamedTuple):
    """An event that raised its agent from level *before* to *level*, medium or above.

    *newcomer*: the model's history has too little of the agent to be compared with its own.
    """

    at_ms: int
    agent: AgentIdentity
    agent_type: str
    event_id: str
    before: int
    level: int
    concern: str
    risk_score: float
    p_value: float
    newcomer: bool


def find_alerts(scored: ScoredBatch, agents: ResidentAgents, counted: Flags) -> Iterator[BacktestAlert]:
    """Find alerts among the *counted* rows of a batch, right after it was applied."""
    before, after = scored.risk[:, risk.LEVEL_BEFORE], scored.levels[:, 1]
    for row in np.flatnonzero(counted & (after >= RiskLevel.MEDIUM) & (after > before)).tolist():
        event = scored.columns.events[row]
        yield BacktestAlert(
            int(scored.columns.time_ms[row]),
            full_name(event),
            scored.type_at(row, agents.types),
            event.id or "",
            int(before[row]),
            int(after[row]),
            CONCERNS[int(scored.risk[row, risk.CONCERN])],
            float(scored.risk_scores[row]),
            float(scored.p_values[row]),
            bool(scored.agent_numbers[row, layout.N_SHARED] < FAMILIAR_EVENTS),
        )


_MOST_TYPES = 3
_MOST_OF_THEM = 0.5
"""Share from which on a cause is named: most alerts have it."""

_CHANCE = 0.05
"""Probability of so many alerts from which on a budget that is kept explains them."""


class BudgetExcess(msgspec.Struct, frozen=True):
    """A level with more alerts than its budget allows, per 1,000 agent-days, and the remedy."""

    level: str
    alerts: int
    rate: float
    budget: float
    chance: float
    words: list[str]


def budget_excesses(
    budget: AlertBudget,
    rises: Sequence[int],
    agent_days: int,
    alerts: Sequence[BacktestAlert],
    tried: Sequence[tuple[AlertBudget, Sequence[int]]],
) -> list[BudgetExcess]:
    """Return the excess of every level over its budget."""
    excesses = []
    for position, (level, number) in enumerate(zip(ALERTING_LEVELS, rises, strict=True)):
        allowed = budget.by_level()[level.label]
        expected = allowed * agent_days / 1000.0
        if number <= expected:
            continue
        chance = chance_of_at_least(number, expected)
        words = []
        if chance >= _CHANCE:
            words.append(
                f"may be chance: if {number_text(expected, 2)} are expected, {number} or more occur in "
                f"{chance * 100:.0f} of 100 histories of this length; look at more days before a setting is changed"
            )
        words += _causes([alert for alert in alerts if alert.before < level <= alert.level])
        words.append(_remedy(budget, level, position, expected, tried))
        excesses.append(BudgetExcess(level.label, number, number * 1000.0 / max(agent_days, 1), allowed, chance, words))
    return excesses


def chance_of_at_least(number: int, expected: float) -> float:
    """Return the probability of *number* or more independent events if *expected* are the average (Poisson).

    >>> round(chance_of_at_least(2, 0.5), 4)
    0.0902
    """
    term, below = math.exp(-expected), 0.0
    for count in range(number):
        below += term
        term *= expected / (count + 1)
    return min(max(1.0 - below, 0.0), 1.0)


def _causes(alerts: Sequence[BacktestAlert]) -> list[str]:
    words = [_by_type(alerts)]
    (agent, most), *_ = Counter(alert.agent for alert in alerts).most_common(1)
    if most > max(1, _MOST_OF_THEM * len(alerts)):
        words.append(
            f"{most} of {len(alerts)} are of one agent, {agent[2]}: look at it first; "
            "feedback (`false_positive`) states what is normal for it"
        )
    newcomers = sum(alert.newcomer for alert in alerts)
    if newcomers >= _MOST_OF_THEM * len(alerts):
        words.append(
            f"{newcomers} of {len(alerts)} are of agents that the model's history hardly has: "
            "train on a history that has them"
        )
    return words


def _by_type(alerts: Sequence[BacktestAlert]) -> str:
    types = Counter(alert.agent_type for alert in alerts).most_common()
    sentences = []
    for kind, number in types[:_MOST_TYPES]:
        of_kind = [alert for alert in alerts if alert.agent_type == kind]
        agents = len({alert.agent for alert in of_kind})
        concern = Counter(alert.concern for alert in of_kind).most_common(1)[0][0]
        sentences.append(
            f"{number} by {agents} {'agent' if agents == 1 else 'agents'} of type {kind or '(none)'}, mostly {concern}"
        )
    more = len(types) - _MOST_TYPES
    return f"caused by: {'; '.join(sentences)}" + (f"; and {more} more types" if more > 0 else "")


def _remedy(
    budget: AlertBudget,
    level: RiskLevel,
    position: int,
    expected: float,
    tried: Sequence[tuple[AlertBudget, Sequence[int]]],
) -> str:
    """Return the largest smaller budget with which this history keeps the active one, or that none of those tried does.

    A whole budget is named: its levels have to fall from one to the next.
    """
    smaller = sorted(
        (trial for trial in tried if trial[0].high < budget.high),
        key=lambda trial: -trial[0].high,
    )
    for other, numbers in smaller:
        if numbers[position] <= expected:
            return (
                f"set risk.alert_budget to {_setting(other)} (it is {_setting(budget)}): this history would have had "
                f"{numbers[position]}, where {number_text(expected, 2)} are accepted; attacks are found later then"
            )
    least = f", down to {_setting(smaller[-1][0])}," if smaller else ""
    return (
        f"no smaller risk.alert_budget that was tried{least} keeps it at {level.label}: what happens is new to the "
        "model, or an attack; look at the alerts, then train on a longer and newer history"
    )


def _setting(budget: AlertBudget) -> str:
    return "{" + ", ".join(f"{level}: {number:g}" for level, number in budget.by_level().items()) + "}"


ISSUANCE_TYPES = ("token.request", "token.exchange", "token.refresh")
CALL_TYPES = ("api.call", "tool.call", "a2a.message")
REQUEST_TYPES = (*ISSUANCE_TYPES, *CALL_TYPES)
"""Events that are access requests: of an authorization server at issuance, of a gateway or middleware at a call."""

GRANTED, SHORTENED, NARROWED, HELD, DENIED = "allowed", "shortened", "narrowed", "held", "denied"
OUTCOMES = (GRANTED, SHORTENED, NARROWED, HELD, DENIED)
"""Outcomes of a request, in the order of what they cost the agent. `held` waits for a person; `narrowed` gets some of
its scopes; `shortened` a shorter lifetime than it had (only if the event states how long that was)."""

MAX_REVOCATION_REASONS = 3
_REFRESH_CODE = EVENT_TYPES.index("token.refresh")
_REQUEST_CODES = np.isin(np.arange(len(EVENT_TYPES)), [EVENT_TYPES.index(kind) for kind in REQUEST_TYPES])


class SimulatedRevocation(msgspec.Struct):
    """An agent whose tokens would have been revoked."""

    agent: AgentName
    agent_type: str
    at_ms: int
    event_id: str
    level: int
    risk_score: float
    reasons: tuple[str, ...]
    enforced: bool  # whether the policy is acted on for this agent as it stands
    until_ms: int = 0  # when its level was one again that revokes nothing; 0 = not within the history
    later_events: int = 0  # events of the agent meanwhile, which a revocation would have stopped


class PolicySimulationResult(msgspec.Struct):
    """Outcomes of a history's requests under one policy."""

    counts: Counter[tuple[str, int, str]]  # requests by (event type, level, outcome)
    enforced: int  # requests that are not simply allowed and whose agent the policy is enforced for
    agents: dict[AgentIdentity, Counter[str]]  # outcomes by agent, of agents with one that is not `allowed`
    revoked: list[SimulatedRevocation]  # in the order of the history


@dataclass(eq=False, repr=False)
class PolicySimulation:
    """Evaluates the requests of one share under a policy."""

    book: PolicyBook
    from_ms: int = 0

    def __post_init__(self) -> None:
        self.result = PolicySimulationResult(Counter(), 0, {}, [])
        self._open: dict[int, SimulatedRevocation] = {}
        tables = [self.book.table, *(rule.table(self.book.table) for rule in self.book.rules)]
        plain = [
            all(
                policy.allow and policy.allowed_scopes is None and not policy.step_up and policy.refresh_allowed
                for policy in (table[level] for table in tables)
            )
            for level in RiskLevel
        ]
        self._plain = np.array(plain)  # levels that limit at most the lifetime
        self._least_s = np.array([min(table[level].max_token_lifetime_s for table in tables) for level in RiskLevel])
        self._revokes = np.array([any(table[level].revoke for table in tables) for level in RiskLevel])
        self._verdicts: dict[tuple[Any, ...], str] = {}

    def apply_decisions(self, decisions: Sequence[Decision]) -> None:
        """Apply changes of level before the rows of their batch."""
        for decision in decisions:
            name = decision.agent
            effective_policy = self.book.effective_policy(*name.identity, decision.agent_type, decision.concern)
            if not effective_policy.table[decision.level].revoke:
                entry = self._open.pop(name.key, None)
                if entry is not None:
                    entry.until_ms = decision.event_time_ms
            elif name.key not in self._open:
                entry = self._open[name.key] = SimulatedRevocation(
                    name,
                    decision.agent_type,
                    decision.event_time_ms,
                    decision.event_id,
                    decision.level,
                    decision.risk_score,
                    tuple(reason.text for reason in decision.reasons[:MAX_REVOCATION_REASONS]),
                    effective_policy.enforced,
                )
                if decision.event_time_ms >= self.from_ms:
                    self.result.revoked.append(entry)

    def simulate_batch(self, scored: ScoredBatch, agents: ResidentAgents, counted: Flags) -> None:
        """Evaluate the *counted* rows, bool (n,), of a batch."""
        levels = scored.risk[:, risk.LEVEL_BEFORE].astype(np.int64)
        for slot in scored.slots[counted & self._revokes[levels]].tolist():
            name = agents.names[slot]
            entry = None if name is None else self._open.get(name.key)
            if entry is not None:
                entry.later_events += 1
        codes = scored.columns.codes[:, event_columns.TYPE]
        lifetimes = scored.columns.numbers[:, event_columns.LIFETIME]
        asked = counted & _REQUEST_CODES[codes]
        plain = asked & self._plain[levels] & (lifetimes <= self._least_s[levels])
        kinds, numbers = np.unique(codes[plain].astype(np.int64) * len(RiskLevel) + levels[plain], return_counts=True)
        for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
            self.result.counts[EVENT_TYPES[kind // len(RiskLevel)], kind % len(RiskLevel), GRANTED] += number
        for row in np.flatnonzero(asked & ~plain).tolist():
            self._simulate_request(scored, row, int(levels[row]), agents)

    def _simulate_request(self, scored: ScoredBatch, row: int, level: int, agents: ResidentAgents) -> None:
        slot, columns = int(scored.slots[row]), scored.columns
        name, agent_type = agents.names[slot], scored.type_at(row, agents.types)
        assert name is not None
        concern = CONCERNS[int(scored.risk[row, risk.CONCERN])] if level >= RiskLevel.MEDIUM else ""
        effective_policy = self.book.effective_policy(*name.identity, agent_type, concern)
        policy = effective_policy.table[level]
        scopes: tuple[str, ...] = ()
        if policy.allow and (policy.step_up or policy.allowed_scopes is not None):
            event = columns.events[row]
            if event.scopes is not None:  # the requested ones; for a call, those of the token
                asked, given = event.scopes.requested, event.scopes.granted
                first, second = (asked, given) if event.type in ISSUANCE_TYPES else (given, asked)
                scopes = tuple(first or second or ())
        kind = int(columns.codes[row, event_columns.TYPE])
        shorter = (
            EVENT_TYPES[kind] in ISSUANCE_TYPES
            and columns.numbers[row, event_columns.LIFETIME] > policy.max_token_lifetime_s
        )
        key = (name.tenant, effective_policy.rule, level, kind == _REFRESH_CODE, scopes, shorter)
        outcome = self._verdicts.get(key)
        if outcome is None:
            if len(self._verdicts) >= 100_000:
                self._verdicts.clear()
            question = AccessRequest(name.tenant, name.issuer, name.agent_id, scopes, kind == _REFRESH_CODE)
            outcome = self._verdicts[key] = self._outcome(question, effective_policy, level, shorter)
        self.result.counts[EVENT_TYPES[kind], level, outcome] += 1
        if outcome != GRANTED:
            self.result.enforced += effective_policy.enforced
            self.result.agents.setdefault(name.identity, Counter())[outcome] += 1

    def _outcome(self, question: AccessRequest, effective_policy: EffectivePolicy, level: int, shorter: bool) -> str:
        verdict = evaluate_policy(
            question, effective_policy._replace(mode=ENFORCE), RiskLevel(level), self.book.version
        )
        if verdict.reason == STEP_UP:
            return HELD
        if verdict.reason != ALLOWED:
            return DENIED
        if verdict.narrowed:
            return NARROWED
        return SHORTENED if shorter else GRANTED
