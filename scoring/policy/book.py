"""The policy book: which token policy holds for which agent, and whether it is acted on.

A book is a value: it never changes, and every answer and decision carries its version. Rules are looked at in order and
the first that matches an agent decides. A rule may be rolled out in stages: to a share of the agents that match, chosen
by a hash of the agent, so that an agent once in stays in while the share grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import msgspec

from ..records import RiskLevel
from .table import LevelTokenPolicy, PolicyTable

EnforcementMode = Literal["shadow", "enforce"]
SHADOW: EnforcementMode = "shadow"
ENFORCE: EnforcementMode = "enforce"

MATCH_ALL = ("*",)
_MAX_REMEMBERED = 100_000


class PolicyRule(msgspec.Struct, frozen=True):
    """Where a policy differs from the book's own.

    Attributes:
        name: for answers and logs.
        tenants, agent_types, agents: glob patterns, case-sensitive; one of each must match.
        mode: None keeps the mode of the agent's tenant.
        rollout_percent: share of the matching agents that `enforce` holds for; the others stay in shadow.
        levels: policies that replace the book's, by level.
    """

    name: str
    tenants: tuple[str, ...] = MATCH_ALL
    agent_types: tuple[str, ...] = MATCH_ALL
    agents: tuple[str, ...] = MATCH_ALL
    mode: EnforcementMode | None = None
    rollout_percent: float = 100.0
    levels: Mapping[RiskLevel, LevelTokenPolicy] = {}

    def matches(self, tenant: str, agent_type: str, agent_id: str) -> bool:
        """Whether the rule is meant for this agent."""
        return (
            _matches_any(self.tenants, tenant)
            and _matches_any(self.agent_types, agent_type)
            and _matches_any(self.agents, agent_id)
        )


class EffectivePolicy(NamedTuple):
    """What holds for one agent."""

    table: PolicyTable
    mode: EnforcementMode
    rule: str  # name of the rule; "" = none matched

    @property
    def enforced(self) -> bool:
        """Whether policy is acted on, not only recorded."""
        return self.mode == ENFORCE


class PolicyBook:
    """Policies of all agents.

    Args:
        table: what holds where no rule says otherwise; its version is the version of the book.
        rules: first match wins.
        modes: mode by tenant.
        default_mode: of every other tenant.
        descendants: highest level that a *critical* ancestor leaves to those it delegated to: they are treated as if
            their own level were at least this one. `low` leaves them alone: nested actors inform, the current actor
            decides (RFC 8693).
    """

    def __init__(
        self,
        table: PolicyTable | None = None,
        rules: Sequence[PolicyRule] = (),
        modes: Mapping[str, EnforcementMode] | None = None,
        default_mode: EnforcementMode = SHADOW,
        descendants: RiskLevel = RiskLevel.LOW,
    ) -> None:
        base = table or PolicyTable()
        self.default_mode = default_mode
        self.descendants = descendants
        self._modes = dict(modes or {})
        self._rules = [(rule, PolicyTable({**base.policies, **rule.levels}, base.version)) for rule in rules]
        self._base = base
        self.version = base.version
        self._effective_policies: dict[tuple[str, str, str, str], EffectivePolicy] = {}

    @property
    def rules(self) -> list[PolicyRule]:
        """In order."""
        return [rule for rule, _ in self._rules]

    @property
    def table(self) -> PolicyTable:
        """What holds where no rule matches."""
        return self._base

    def effective_policy(self, tenant: str, issuer: str, agent_id: str, agent_type: str) -> EffectivePolicy:
        """What holds for an agent; remembered, since it is asked on every answer."""
        asked = (tenant, issuer, agent_id, agent_type)
        known = self._effective_policies.get(asked)
        if known is None:
            if len(self._effective_policies) >= _MAX_REMEMBERED:
                self._effective_policies.clear()
            known = self._effective_policies[asked] = self._find_policy(tenant, issuer, agent_id, agent_type)
        return known

    def may_enforce(self, tenant: str) -> bool:
        """Whether policy is acted on for any agent of a tenant: where it is not, nothing may be refused."""
        return self._modes.get(tenant, self.default_mode) == ENFORCE or any(
            rule.mode == ENFORCE and _matches_any(rule.tenants, tenant) for rule, _ in self._rules
        )

    def policy(self, tenant: str, issuer: str, agent_id: str, agent_type: str, level: int) -> LevelTokenPolicy:
        """Token policy of an agent at a level."""
        return self.effective_policy(tenant, issuer, agent_id, agent_type).table[level]

    def _find_policy(self, tenant: str, issuer: str, agent_id: str, agent_type: str) -> EffectivePolicy:
        mode = self._modes.get(tenant, self.default_mode)
        for rule, table in self._rules:
            if not rule.matches(tenant, agent_type, agent_id):
                continue
            mode = rule.mode or mode
            if mode == ENFORCE and rule.rollout_percent < 100 and not _in_rollout(rule, tenant, issuer, agent_id):
                mode = SHADOW
            return EffectivePolicy(table, mode, rule.name)
        return EffectivePolicy(self._base, mode, "")


def _in_rollout(rule: PolicyRule, tenant: str, issuer: str, agent_id: str) -> bool:
    """Whether the agent is among the share that a rule is rolled out to. The same answer in every process."""
    named = "\x1f".join((rule.name, tenant, issuer, agent_id)).encode()
    place = int.from_bytes(hashlib.sha256(named).digest()[:8], "big") / 2**64
    return place * 100 < rule.rollout_percent


def _matches_any(patterns: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
