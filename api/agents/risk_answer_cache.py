"""The risk answer, encoded once per agent and update.

An answer is two pieces of bytes. The head belongs to the agent and is kept in its view entry until the next update. The
tail (`expires_at`, `stale`, `model_version`) is the same for all agents of a partition at one time: it follows from how
fresh they are, and which model is active. So a repeated answer costs one concatenation.

`expires_at` is `fresh_ms + staleness_s`: until then the answer is valid, because everything that was
logged `staleness_s` before it is included. From then on the answer is `stale`. An idle agent does not turn stale
while the pipeline lives and keeps up; all turn stale when it is dead or falls behind.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch_client.risk_answers import Answer, Pin

from ..enforcement_points import EnforcementPoints
from ..http.agent_lookup import find_agent_entry
from ..http.auth.callers import AuthenticatedCaller
from ..http.runtime import Runtime

MIN_RISK_WITH_REASONS = 0.05
"""Risk below which reasons are history and no longer shown."""


_TAIL = ("expires_at", "stale", "model_version", "source", "age_s")
RiskAnswerHead: Any = msgspec.defstruct(
    "RiskAnswerHead", [(name, Any) for name in Answer.__struct_fields__ if name not in _TAIL], frozen=True
)
"""The part of an answer that changes with the agent, with values as JSON has them."""

_encode_json = msgspec.json.Encoder().encode
_NOTHING = msgspec.Raw(b"[]")


class RiskAnswerCache:
    """Answers risk queries from memory."""

    def __init__(self, services: Runtime) -> None:
        self._view: RiskView = services.risk_view
        self._policy: LivePolicy = services.live_policy
        self._runtime = services
        self._pipeline_status: PipelineStatus = services.pipeline_status
        self._now_ms = services.now_ms
        self._staleness_ms = int(services.settings.risk.staleness_s * 1000)
        self._policy_evaluator = services.policy_evaluator
        self._interventions = services.policy_evaluator.interventions
        self._enforcement_points = EnforcementPoints(services.settings)
        self._tails: dict[int, tuple[int, bool, str, bytes]] = {}

    def answer(self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None) -> bytes:
        """The answer as JSON. Raises TenantNotAllowed, ProblemError."""
        entry = find_agent_entry(self._view, caller, agent_id, tenant, issuer)
        now_ms = self._now_ms()
        if entry is None:
            name = AgentName(
                0,
                (tenant if tenant is not None else caller.binding.default_tenant) or "",
                (issuer if issuer is not None else caller.binding.default_issuer) or "",
                agent_id,
            )
            head = self._encode_head(_unknown_agent(name, now_ms), self._policy.book, self._active_pin(name, now_ms))
        elif entry.cached_answer is None or entry.cached_answer_book is not self._policy.book:
            pin = self._active_pin(entry.summary.name, now_ms)
            head = self._encode_head(entry.summary, self._policy.book, pin)
            if pin is None:  # one that is pinned changes when the pin ends
                entry.cached_answer, entry.cached_answer_book = head, self._policy.book
        else:
            head = entry.cached_answer
        return head + self.encode_tail(now_ms, None if entry is None else entry.partition)

    def encode_tail(self, now_ms: int, partition: int | None = None) -> bytes:
        """The end of every answer given at *now_ms* about agents of *partition*; None for unknown agents."""
        fresh_ms = self._pipeline_status.fresh_ms if partition is None else self._pipeline_status.fresh_ms_of(partition)
        expires_ms = fresh_ms + self._staleness_ms if fresh_ms else now_ms
        stale = now_ms >= expires_ms
        tail_key = -1 if partition is None else partition
        cached, model = self._tails.get(tail_key), self._runtime.scoring_version
        if cached is not None and cached[0] == expires_ms and cached[1] is stale and cached[2] == model:
            return cached[3]
        word = b"true" if stale else b"false"
        tail = b',"expires_at":"%s","stale":%s,"model_version":%s}' % (
            format_rfc3339(expires_ms).encode(),
            word,
            _encode_json(model),
        )
        self._tails[tail_key] = expires_ms, stale, model, tail
        return tail

    def _encode_head(self, summary: AgentSummary, book: PolicyBook, pin: Intervention | None) -> bytes:
        name = summary.name
        effective_policy = book.effective_policy(
            name.tenant, name.issuer, name.agent_id, summary.agent_type, summary.concern
        )
        ancestor = self._critical_ancestor(name.tenant, name.issuer, name.agent_id, book)
        level = _effective_level(RiskLevel(summary.level), pin, ancestor, book)
        policy = effective_policy.table[level]
        head = RiskAnswerHead(
            agent_id=name.agent_id,
            tenant=name.tenant or None,
            issuer=name.issuer or None,
            risk_level=RiskLevel(summary.level).label,
            risk_score=round(summary.risk_score, 4),
            concern=summary.concern or None,
            confidence=round(summary.confidence, 4),
            evaluated_at=format_rfc3339(summary.evaluated_ms),
            reasons=msgspec.Raw(summary.reasons) if shows_reasons(summary) else _NOTHING,
            indicators=msgspec.Raw(summary.indicators) if shows_reasons(summary) else _NOTHING,
            counterfactual=summary.counterfactual or None,
            pin=_pin_member(pin),
            critical_ancestor=ancestor or None,
            token_policy=policy,
            holds_at=self._enforcement_points.of_agent(
                name.tenant, name.issuer, level, policy, enforced=effective_policy.enforced
            ),
            decision_id=summary.decision_id or None,
            policy_version=book.version,
            mode=effective_policy.mode,
        )
        return _encode_json(head)[:-1]

    def _active_pin(self, name: AgentName, now_ms: int) -> Intervention | None:
        return self._interventions.active_pin(name.identity, now_ms)

    def _critical_ancestor(self, tenant: str, issuer: str, agent_id: str, book: PolicyBook) -> str:
        """The critical agent above this one, if the policy considers it."""
        return self._policy_evaluator.critical_ancestor(AccessRequest(tenant, issuer, agent_id), book)


def _unknown_agent(name: AgentName, now_ms: int) -> AgentSummary:
    """An agent that was never seen, as of now."""
    return AgentSummary(name, "", RiskLevel.UNKNOWN, 0.0, 0.0, 0.0, 0, 0, now_ms, 0, 0, "", b"", "")


def _pin_member(pin: Intervention | None) -> Pin | None:
    if pin is None:
        return None
    return Pin(RiskLevel(pin.level).label, pin.decided_by, pin.why, format_rfc3339(pin.expires_ms))


def _effective_level(measured: RiskLevel, pin: Intervention | None, ancestor: str, book: PolicyBook) -> RiskLevel:
    """The level that the policy uses: a pin, else the measured level, raised by a critical ancestor."""
    if pin is not None:
        return RiskLevel(pin.level)
    return max(measured, book.descendants) if ancestor else measured


def shows_reasons(summary: AgentSummary) -> bool:
    """True if some of the risk that the stored reasons explain remains."""
    return bool(summary.reasons) and summary.risk_score >= MIN_RISK_WITH_REASONS
