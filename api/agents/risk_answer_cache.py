"""The risk answer, encoded once per agent and update.

An answer consists of two pieces of bytes. The head belongs to the agent and is kept in its view entry until the next
update. The tail (`expires_at`, `stale`, `model_version`) is the same for all agents of a partition at one time. So a
repeated answer costs one concatenation.

`expires_at` is `fresh_ms + staleness_s`: until then the answer includes everything that was logged `staleness_s` before
it. From then on the answer is `stale`. An idle agent does not become stale while the pipeline runs and keeps up; all do
when it is dead or falls behind.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch_client.risk_answers import Answer, EnforcementPoint, Pin

from ..http.agent_lookup import find_agent_entry
from ..http.auth.callers import AuthenticatedCaller
from ..http.runtime import Runtime
from ..settings.enforcement_settings import HookSettings
from ..settings.root import Settings

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
        self._view = services.risk_view
        self._policy = services.live_policy
        self._runtime = services
        self._pipeline_status = services.pipeline_status
        self._now_ms = services.now_ms
        self._staleness_ms = int(services.settings.risk.staleness_s * 1000)
        self._policy_evaluator = services.policy_evaluator
        self._interventions = services.policy_evaluator.interventions
        self._settings = services.settings
        self._tails: dict[int, tuple[int, bool, str, bytes]] = {}

    def answer(self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None) -> bytes:
        """Return the answer as JSON. Raises TenantNotAllowed, ProblemError."""
        entry = find_agent_entry(self._view, caller, agent_id, tenant, issuer)
        now_ms = self._now_ms()
        if entry is None:
            tenant = (tenant if tenant is not None else caller.binding.default_tenant) or ""
            issuer = (issuer if issuer is not None else caller.binding.default_issuer) or ""
            name = AgentName(0, tenant, issuer, agent_id)
            unknown = AgentSummary(name, "", RiskLevel.UNKNOWN, 0.0, 0.0, 0.0, 0, 0, now_ms, 0, 0, "", b"", "")
            head = self._encode_head(unknown, self._policy.book, self._interventions.active_pin(name.identity, now_ms))
        elif entry.cached_answer is None or entry.cached_answer_book is not self._policy.book:
            pin = self._interventions.active_pin(entry.summary.name.identity, now_ms)
            head = self._encode_head(entry.summary, self._policy.book, pin)
            if pin is None:  # one that is pinned changes when the pin ends
                entry.cached_answer, entry.cached_answer_book = head, self._policy.book
        else:
            head = entry.cached_answer
        return head + self.encode_tail(now_ms, None if entry is None else entry.partition)

    def encode_tail(self, now_ms: int, partition: int | None = None) -> bytes:
        """Encode the end of every answer given at *now_ms* about agents of *partition*; None for unknown agents."""
        fresh_ms = self._pipeline_status.fresh_ms if partition is None else self._pipeline_status.fresh_ms_of(partition)
        expires_ms = fresh_ms + self._staleness_ms if fresh_ms else now_ms
        stale = now_ms >= expires_ms
        tail_key = -1 if partition is None else partition
        cached, model = self._tails.get(tail_key), self._runtime.scoring_version
        if cached is not None and cached[0] == expires_ms and cached[1] is stale and cached[2] == model:
            return cached[3]
        word = b"true" if stale else b"false"
        expires = format_rfc3339(expires_ms).encode()
        tail = b',"expires_at":"%s","stale":%s,"model_version":%s}' % (expires, word, _encode_json(model))
        self._tails[tail_key] = expires_ms, stale, model, tail
        return tail

    def _encode_head(self, summary: AgentSummary, book: PolicyBook, pin: Intervention | None) -> bytes:
        name = summary.name
        full_name = name.tenant, name.issuer, name.agent_id
        effective_policy = book.effective_policy(*full_name, summary.agent_type, summary.concern)
        ancestor = self._policy_evaluator.critical_ancestor(AccessRequest(*full_name), book)
        measured = RiskLevel(summary.level)
        # A pin replaces the measured level; a critical agent above this one raises it.
        level = max(measured, book.descendants) if ancestor else measured
        if pin is not None:
            level = RiskLevel(pin.level)
        policy = effective_policy.table[level]
        head = RiskAnswerHead(
            agent_id=name.agent_id,
            tenant=name.tenant or None,
            issuer=name.issuer or None,
            risk_level=measured.label,
            risk_score=round(summary.risk_score, 4),
            concern=summary.concern or None,
            confidence=round(summary.confidence, 4),
            evaluated_at=format_rfc3339(summary.evaluated_ms),
            reasons=msgspec.Raw(summary.reasons) if shows_reasons(summary) else _NOTHING,
            indicators=msgspec.Raw(summary.indicators) if shows_reasons(summary) else _NOTHING,
            counterfactual=summary.counterfactual or None,
            pin=pin and Pin(RiskLevel(pin.level).label, pin.decided_by, pin.why, format_rfc3339(pin.expires_ms)),
            critical_ancestor=ancestor or None,
            token_policy=policy,
            holds_at=enforcement_points(self._settings, name, level, policy, enforced=effective_policy.enforced),
            decision_id=summary.decision_id or None,
            policy_version=book.version,
            mode=effective_policy.mode,
        )
        return _encode_json(head)[:-1]


def shows_reasons(summary: AgentSummary) -> bool:
    """Return whether some of the risk that the stored reasons explain remains."""
    return bool(summary.reasons) and summary.risk_score >= MIN_RISK_WITH_REASONS


OKTA_SHORTEST_S = 300
"""Shortest lifetime that Okta gives a token, s."""

_PRODUCTS = {"hydra": "Ory Hydra", "okta": "Okta", "wso2": "WSO2", "zitadel": "ZITADEL", "keycloak": "Keycloak"}


def enforcement_points(
    settings: Settings, name: AgentName, level: RiskLevel, policy: LevelTokenPolicy, *, enforced: bool
) -> list[EnforcementPoint]:
    """Return what each server that queries us or is notified does with an agent's new tokens.

    *level* is the one that the policy acts on; in shadow no server acts. A product may be unable to enforce the policy:
    the answer states what it does, so that no reader relies on a lifetime that no token has.
    """
    tenant, issuer = name.tenant, name.issuer
    points = [
        *(
            EnforcementPoint("hook", hook.name, hook.kind, *_hook_effect(hook, policy))
            for hook in settings.hooks
            if hook.tenant in (None, tenant) and hook.issuer in (None, issuer)
        ),
        *(
            EnforcementPoint("actuator", actuator.name, actuator.kind, *_actuator_effect(actuator, level, policy))
            for actuator in settings.actuators
            if actuator.serves(tenant, issuer)
        ),
    ]
    for entry in settings.gateway.issuers:
        if (entry.agent_issuer or entry.issuer) == issuer and entry.tenant in (None, tenant):
            does = "lets calls pass" if policy.allow else "refuses calls, also with tokens that are out"
            text = f"{does} where a gateway asks; lifetimes stay as issued"
            points.append(EnforcementPoint("gateway", entry.issuer, "gateway", None, text))
    if enforced:
        return points
    text = "shadow: decided and recorded, nothing is refused, shortened or revoked"
    return [msgspec.structs.replace(point, max_token_lifetime_s=None, text=text) for point in points]


def _hook_effect(hook: HookSettings, policy: LevelTokenPolicy) -> tuple[int | None, str]:
    if not policy.allow:
        return None, "refuses new tokens"
    ceiling, product = policy.max_token_lifetime_s, _PRODUCTS.get(hook.kind, hook.kind)
    if hook.kind in ("hydra", "zitadel"):
        return None, f"cannot shorten: new tokens live as long as {product} gives them"
    if hook.kind == "okta" and ceiling < OKTA_SHORTEST_S:
        return None, f"refuses new tokens: {product} gives none of less than {OKTA_SHORTEST_S} s"
    if hook.kind == "authzen":
        return ceiling, f"tells who asks: at most {ceiling:,} s; to keep it is theirs"
    return ceiling, f"shortens new tokens to at most {ceiling:,} s"


def _actuator_effect(actuator: ActuatorSettings, level: RiskLevel, policy: LevelTokenPolicy) -> tuple[int | None, str]:
    ceiling, product = policy.max_token_lifetime_s, _PRODUCTS.get(actuator.kind, "the receiver")
    if not actuator.acts_at(level):
        return None, f"does nothing at {level.label}: new tokens live as long as {product} gives them"
    if actuator.kind == "webhook":
        asked = f"at most {ceiling:,} s" if policy.allow else "no new tokens"
        confirms = actuator.confirm_url is not None
        known = "it says whether that holds" if confirms else "whether that holds is not known"
        return None, f"is asked for {asked}; {known}"
    if not policy.allow:
        return None, "takes new tokens from the client" + (", and those that are out" if policy.revoke else "")
    return ceiling, f"shortens new tokens of the client to at most {ceiling:,} s, unless they were shorter"
