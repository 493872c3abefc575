"""From settings to the values that the layers below take: the composition root's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...ingest.kafka.settings import KafkaClientSettings, KafkaTopics, SaslSettings, TlsSettings
from ...models.bundle import TrainedModel
from ...scoring.engine import EngineSettings
from ...scoring.lifecycle.force import ActiveModels
from ...scoring.lifecycle.shelf import ModelRegistry
from ...scoring.notify import STATEFUL_FORMATS, WebhookTarget
from ...scoring.pipeline import PipelineParameters
from ...scoring.policy import LevelTokenPolicy, LivePolicy, PolicyBook, PolicyRule, PolicyTable
from ...scoring.privacy import PrivacyKey, open_privacy_key
from ...scoring.privacy.key import PRIVACY_KEY_FILE
from ...scoring.processor import ProcessorContext
from ...scoring.publish import TopicNames
from ...scoring.records import RiskLevel
from ...scoring.risk import AlertRateBudget, RiskParameters
from ...scoring.store import SqlStore, open_store, sqlite_url
from ..settings import LevelPolicy, Settings, WebhookSettings
from ..settings.kafka import KafkaSecuritySettings
from ..settings.policy_file import LEVEL_NAMES, PolicyFile, read_policy_file
from ..settings.risk import LevelPolicies
from ..settings.root import ANY_TENANT
from ..settings.secret import Secret


def engine_settings(settings: Settings, *, learn: bool = True, capacity: int | None = None) -> EngineSettings:
    """How the engine works under these settings."""
    budget, rules = settings.risk.alert_budget, settings.risk
    return EngineSettings(
        capacity=settings.pipeline.resident_agents if capacity is None else capacity,
        learn=learn,
        budget=AlertRateBudget(budget.medium, budget.high, budget.critical),
        risk=RiskParameters(
            half_life_ms=rules.half_life_s * 1000.0,
            hold_ms=rules.hold_s * 1000.0,
            confidence_low=rules.confidence_minimum,
        ),
        disabled_signals=rules.disabled_signals,
    )


def policy_table(settings: Settings) -> PolicyTable:
    """Token policy of every level."""
    policies = {RiskLevel[name.upper()]: _token_policy(policy) for name, policy in settings.policies().items()}
    return PolicyTable(policies, settings.token_policy.version)


def policy_book(settings: Settings) -> PolicyBook:
    """Token policies of all agents. Raises ConfigError where the policy file is wrong."""
    if settings.token_policy_file is not None:
        return read_policy_book(settings.token_policy_file)
    modes = {name: tenant.mode for name, tenant in settings.tenants.items() if name != ANY_TENANT}
    return PolicyBook(policy_table(settings), (), modes, settings.tenant(ANY_TENANT).mode)


def read_policy_book(path: Path) -> PolicyBook:
    """Token policies of a policy file. Raises ConfigError where it is wrong."""
    return _policy_book_of_file(read_policy_file(path))


def live_policy(settings: Settings) -> LivePolicy:
    """The policy book in force, and how it is read anew. Raises ConfigError."""
    return LivePolicy(policy_book(settings), settings.token_policy_file, lambda: policy_book(settings))


def _policy_book_of_file(file: PolicyFile) -> PolicyBook:
    levels = file.levels or LevelPolicies()
    policies = {RiskLevel[name.upper()]: _token_policy(getattr(levels, name)) for name in LEVEL_NAMES}
    rules = [
        PolicyRule(
            rule.name,
            rule.tenants,
            rule.agent_types,
            rule.agents,
            rule.mode,
            rule.rollout_percent,
            {RiskLevel[name.upper()]: _token_policy(policy) for name, policy in rule.levels.items()},
        )
        for rule in file.rules
    ]
    table = PolicyTable(policies, file.version)
    return PolicyBook(table, rules, file.tenants, file.mode, RiskLevel[file.descendants.upper()])


def _token_policy(policy: LevelPolicy) -> LevelTokenPolicy:
    scopes = ("*",) if policy.step_up else policy.step_up_scopes
    return LevelTokenPolicy(
        policy.allow,
        policy.max_token_lifetime_s,
        policy.allowed_scopes,
        policy.refresh_allowed,
        bool(scopes),
        policy.revoke,
        scopes,
    )


def processor_context(settings: Settings) -> ProcessorContext:
    """Names that decisions carry."""
    return ProcessorContext(live_policy(settings))


def pipeline_settings(settings: Settings) -> PipelineParameters:
    """How the pipeline works under these settings."""
    pipeline = settings.pipeline
    return PipelineParameters(
        batch=pipeline.batch_size,
        commit_interval_s=pipeline.commit_interval_s,
        commit_share=pipeline.commit_share,
        service=service_url(settings),
    )


def service_url(settings: Settings) -> str:
    """Where this service is reached, for links in alerts."""
    return settings.listen.url()


def webhook_targets(settings: Settings) -> list[WebhookTarget]:
    """Targets of alerts. Raises ConfigError for one that can not be used."""
    return [
        WebhookTarget(
            webhook.name,
            webhook.url.reveal(),
            () if webhook.secret is None else (webhook.secret.reveal(),),
            format=webhook.format,
            routing_key=_reveal(webhook.routing_key),
            levels=_webhook_levels(webhook),
            timeout_s=webhook.timeout_s,
            allow_plain_loopback=webhook.allow_http,
        )
        for webhook in settings.webhooks
    ]


def _webhook_levels(webhook: WebhookSettings) -> frozenset[RiskLevel]:
    """Levels that it is told of. What keeps incidents has to be told how they end, whichever levels begin one."""
    ends = {RiskLevel.UNKNOWN, RiskLevel.LOW} if webhook.format in STATEFUL_FORMATS else set()
    return frozenset(RiskLevel[level.upper()] for level in webhook.levels) | ends


def open_service_store(settings: Settings) -> SqlStore:
    """The store, migrated. Raises ConfigError or Unavailable."""
    store = settings.store
    if store.url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    url = sqlite_url(settings.data_dir / "trustwatch.db") if store.url is None else store.url
    password = None if store.password is None else store.password.reveal()
    return open_store(url, settings.dead_letters.max_rows, password=password)


def kafka_settings(settings: Settings) -> KafkaClientSettings:
    """What Kafka clients are told. Only where brokers are configured."""
    kafka, security = settings.kafka, settings.kafka.security
    return KafkaClientSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        client=kafka.client,
        group_id=kafka.group_id,
        topics=KafkaTopics(
            events=kafka.names.events,
            dead_letters=kafka.names.dead_letters,
            risk=kafka.names.risk,
            decisions=kafka.names.decisions,
            alerts=kafka.names.alerts,
        ),
        security_protocol=security.protocol,
        tls=TlsSettings(
            ca_file=str(security.ca_file or ""),
            certificate_file=str(security.certificate_file or ""),
            key_file=str(security.key_file or ""),
        ),
        sasl=_sasl_settings(security),
        session_timeout_ms=int(kafka.session_timeout_s * 1000),
    )


def _sasl_settings(security: KafkaSecuritySettings) -> SaslSettings | None:
    if security.mechanism is None:
        return None
    return SaslSettings(
        mechanism=security.mechanism,
        username=security.username or "",
        password=_reveal(security.password),
        token_endpoint=security.token_url or "",
        client_id=security.client_id or "",
        client_secret=_reveal(security.client_secret),
        scope=security.scope or "",
    )


def _reveal(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal()


def open_model_registry(settings: Settings) -> ModelRegistry:
    """Where versions of models lie."""
    return ModelRegistry(settings.data_dir / "models", settings.model_dir)


def load_active_model(settings: Settings, store: SqlStore) -> TrainedModel:
    """The model that events are judged by now. Raises ModelError, OSError, Unavailable."""
    models = ActiveModels(open_model_registry(settings), lambda: 0)
    chosen = models.choose(next(iter(store.model_switches(1)), None))
    return models.load(chosen.version, chosen.digest)


def topic_names(settings: Settings) -> TopicNames:
    """Where what leaves is sent."""
    names = settings.kafka.names
    return TopicNames(names.risk, names.decisions, names.alerts, names.dead_letters)


def open_service_privacy_key(settings: Settings) -> PrivacyKey:
    """The key of this installation, made on first use. Raises ConfigError."""
    return open_privacy_key(settings.privacy.key_file or settings.data_dir / PRIVACY_KEY_FILE)


def principal_alias(settings: Settings) -> Callable[[str, str], str] | None:
    """What is logged in place of principals; None = their identifiers. Raises ConfigError."""
    return open_service_privacy_key(settings).pseudonym if settings.privacy.pseudonymise_principals else None
