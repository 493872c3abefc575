"""From settings to the values that the layers below take: the composition root's arithmetic."""

from __future__ import annotations

from ...scoring.engine import EngineSettings
from ...scoring.notify import WebhookTarget
from ...scoring.pipeline import PipelineSettings
from ...scoring.policy import PolicyTable, TokenPolicy
from ...scoring.processor import Context
from ...scoring.records import RiskLevel
from ...scoring.risk import Budget, RiskSettings
from ..settings import LevelPolicy, Settings
from ..settings.root import ANY_TENANT


def engine_settings(settings: Settings, *, learn: bool = True, capacity: int | None = None) -> EngineSettings:
    """How the engine works under these settings."""
    budget, rules = settings.risk.alert_budget, settings.risk
    return EngineSettings(
        capacity=settings.pipeline.resident_agents if capacity is None else capacity,
        learn=learn,
        budget=Budget(budget.medium, budget.high, budget.critical),
        risk=RiskSettings(
            half_life_ms=rules.half_life_s * 1000.0, hold_ms=rules.hold_s * 1000.0,
            confidence_low=rules.confidence_minimum,
        ),
        disabled_signals=rules.disabled_signals,
    )  # fmt: skip


def policy_table(settings: Settings) -> PolicyTable:
    """Token policy of every level."""
    policies = {RiskLevel[name.upper()]: _policy(policy) for name, policy in settings.policies().items()}
    return PolicyTable(policies, settings.token_policy.version)


def _policy(policy: LevelPolicy) -> TokenPolicy:
    scopes = ("*",) if policy.step_up else policy.step_up_scopes
    return TokenPolicy(
        policy.allow, policy.max_token_lifetime_s, policy.allowed_scopes, policy.refresh_allowed, bool(scopes),
        policy.revoke, scopes,
    )  # fmt: skip


def context(settings: Settings) -> Context:
    """Names that decisions carry."""
    modes = {name: tenant.mode for name, tenant in settings.tenants.items() if name != ANY_TENANT}
    return Context(policy_table(settings), modes, settings.tenant(ANY_TENANT).mode)


def pipeline_settings(settings: Settings) -> PipelineSettings:
    """How the pipeline works under these settings."""
    pipeline = settings.pipeline
    return PipelineSettings(
        batch=pipeline.batch_size, commit_interval_s=pipeline.commit_interval_s, service=service_url(settings)
    )


def service_url(settings: Settings) -> str:
    """Where this service is reached, for links in alerts."""
    if settings.listen.public_url is not None:
        return settings.listen.public_url.rstrip("/")
    host = f"[{settings.listen.host}]" if ":" in settings.listen.host else settings.listen.host
    return f"http://{host}:{settings.listen.port}"


def webhook_targets(settings: Settings) -> list[WebhookTarget]:
    """Targets of alerts. Raises ConfigError for one that can not be used."""
    return [
        WebhookTarget(
            webhook.name, webhook.url, (webhook.secret.reveal(),),
            levels=frozenset(RiskLevel[level.upper()] for level in webhook.levels), timeout_s=webhook.timeout_s,
            allow_plain_loopback=webhook.allow_http,
        ) for webhook in settings.webhooks
    ]  # fmt: skip
