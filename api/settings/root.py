"""The whole of the settings, and what must hold between its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.settings import Name, SettingsPart, is_loopback, setting
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.pipeline.settings import PipelineSettings
from trustwatch.scoring.policy.access_evaluation import OutsideBoundary
from trustwatch.scoring.records.dead_letters import PIPELINE_SENDER
from trustwatch.scoring.store.retention_settings import LOG_DAYS, Days, RetentionKind

from .access_settings import (
    ANY_TENANT,
    SELF,
    CallerSettings,
    IssuerSettings,
    KafkaSettings,
    ProofSettings,
    RegisteredAgent,
    VerificationSettings,
)
from .enforcement_settings import GatewaySettings, HookSettings
from .service_settings import (
    ArchiveSettings,
    ConsoleSettings,
    IdentitySettings,
    LifecycleSettings,
    ListenSettings,
    LogSettings,
    OutgoingSettings,
    PrivacySettings,
    StoreSettings,
    TenantSettings,
)
from .shared_signals_settings import SharedSignalsSettings


class ServiceRiskSettings(RiskEvaluationSettings, frozen=True):
    """The engine's settings, and what the service does with its levels."""

    staleness_s: Annotated[
        float, setting("answers are `stale` if the pipeline is dead or behind for longer, s", after="hold_s", gt=0)
    ] = 300.0


class Settings(SettingsPart, frozen=True):
    """Everything an operator can set. Paths are absolute once `load_settings` has read them."""

    settings_version: Annotated[
        Literal[1, 2], setting("2 for new files; 1 keeps the defaults of release 0.1, with a warning at the start")
    ] = 1
    # Made by functions: msgspec's JSON Schema takes no default that is a path.
    data_dir: Annotated[Path, setting("database, event log and local keys")] = msgspec.field(
        default_factory=lambda: Path("var")
    )
    model_dir: Annotated[Path, setting("the trained model")] = msgspec.field(default_factory=lambda: Path("var/model"))
    listen: Annotated[ListenSettings, setting("address of the API")] = ListenSettings()
    logs: Annotated[LogSettings, setting("log of the processes")] = LogSettings()
    outgoing: Annotated[OutgoingSettings, setting("connections to other services")] = OutgoingSettings()
    issuers: Annotated[tuple[IssuerSettings, ...], setting("authorization servers whose tokens callers present")] = ()
    verification: Annotated[VerificationSettings, setting("verification of tokens")] = VerificationSettings()
    callers: Annotated[tuple[CallerSettings, ...], setting("clients of the API")] = ()
    tenants: Annotated[Mapping[Name, TenantSettings], setting("tenants by name; `*` is every other tenant")] = {}
    registry: Annotated[
        tuple[RegisteredAgent, ...], setting("agents that the operator describes; first match wins")
    ] = ()
    outside_boundary: Annotated[
        OutsideBoundary | None,
        setting(
            "for an action outside the agent's declared capabilities: mention it in the answer,"
            " ask a person, or deny; null is `step_up`, with `settings_version` 1 `record`"
        ),
    ] = None
    scope_actions: Annotated[
        Mapping[Name, tuple[Name, ...]],
        setting("globs of actions by the scope that covers them, in addition to declared capabilities"),
    ] = {}
    webhooks: Annotated[tuple[WebhookTarget, ...], setting("targets of alerts")] = ()
    hooks: Annotated[tuple[HookSettings, ...], setting("authorization servers that ask while they issue tokens")] = ()
    gateway: Annotated[GatewaySettings, setting("gateways that ask about each call of an agent")] = GatewaySettings()
    actuators: Annotated[
        tuple[ActuatorSettings, ...], setting("authorization servers whose clients are lowered and restored")
    ] = ()
    shared_signals: Annotated[SharedSignalsSettings, setting("security event tokens (OpenID SSF 1.0)")] = (
        SharedSignalsSettings()
    )
    store: Annotated[StoreSettings, setting("database")] = StoreSettings()
    archive: Annotated[ArchiveSettings, setting("events as Parquet files")] = ArchiveSettings()
    console: Annotated[ConsoleSettings, setting("pages for people at `/console`")] = ConsoleSettings()
    lifecycle: Annotated[LifecycleSettings, setting("retraining, shadow, promotion, drift")] = LifecycleSettings()
    kafka: Annotated[KafkaSettings, setting("Apache Kafka, for several machines")] = KafkaSettings()
    pipeline: Annotated[PipelineSettings, setting("from events to risk")] = PipelineSettings()
    risk: Annotated[ServiceRiskSettings, setting("from evidence to levels")] = ServiceRiskSettings()
    token_policy_file: Annotated[
        Path | None,
        setting("policy file, read again when it changes; null is the default policy; replaces the modes of `tenants`"),
    ] = None
    identity: Annotated[IdentitySettings, setting("the key under which agents are known")] = IdentitySettings()
    privacy: Annotated[PrivacySettings, setting("pseudonyms")] = PrivacySettings()
    retention_days: Annotated[
        int, setting("days that finished rows are kept unless `retention` differs", ge=1, le=36_500)
    ] = 90
    retention: Annotated[
        Mapping[RetentionKind, Days | None],
        setting(
            "days by kind: `decisions`, except an agent's current one; `cases`, after their last change; `labels`, "
            "judgments that ended, by default as long as events (`archive.retention_days` if that is longer); "
            "`waiting_dead_letters`, not yet replayed, by default no limit but their number; `log`, segments of the "
            "event log that every reader has passed"
        ),
    ] = msgspec.field(default_factory=lambda: {"log": LOG_DAYS})

    @property
    def brokers(self) -> KafkaSettings:
        """The brokers that keep topics, under a name that does not depend on the product."""
        return self.kafka

    @property
    def distributed(self) -> bool:
        """True if events are on brokers; else they are in the log below `data_dir`."""
        return bool(self.kafka.bootstrap_servers)

    def __post_init__(self) -> None:
        self._apply_defaults_of_version()
        _check_unique("issuer", issuers=self.issuers)
        # A caller sees the dead letters that carry its name, so no topic may have it too.
        _check_unique("name", callers=self.callers, **{"kafka.topics": self.kafka.topics})
        _check_unique("name", hooks=self.hooks)
        if [hook.kind for hook in self.hooks].count("authzen") > 1:
            raise ValueError("only one hook may be of kind `authzen`: its paths are fixed - at `$.hooks`")
        _check_unique("name", webhooks=self.webhooks, actuators=self.actuators)
        _check_callers(self.callers, [issuer.issuer for issuer in self.issuers])
        _check_certificates(self.callers, self.verification.proofs)
        if self.console.development_login and not (is_loopback(self.listen.host) and self.listen.public_url is None):
            raise ValueError(
                "a development login is only for this machine: `listen.host` must be loopback and `listen.public_url` "
                "null - at `$.console.development_login`"
            )
        at = self.listen.public_url or f"http://{self.listen.host}"
        if self.console.enabled and not (at.startswith("https://") or is_loopback(self.listen.host)):
            raise ValueError(
                "the console's cookie must not travel unencrypted: put TLS in front and name it in `listen.public_url` "
                "(https), or listen on loopback - at `$.console.enabled`"
            )
        events, vectors = self.archive.directory, self.archive.vectors
        if events and vectors and (events == vectors or events in vectors.parents or vectors in events.parents):
            # Tools read all files below a folder as one table: two tables need two folders.
            raise ValueError("must be neither inside nor around `archive.directory` - at `$.archive.vectors`")
        if self.gateway.mtls == "verify" and self.verification.proofs.certificate_header is None:
            raise ValueError("`verify` needs `verification.proofs.certificate_header` - at `$.gateway.mtls`")
        self._check_shared_signals()

    def _check_shared_signals(self) -> None:
        """Check which keys sign, whom we hear, and who hears us."""
        if self.shared_signals.enabled and self.distributed and self.shared_signals.key_dir is None:
            raise ValueError(
                "required if several machines serve, since all sign with the same keys - at `$.shared_signals.key_dir`"
            )
        own_issuer = self.shared_signals.issuer or self.listen.url()
        for index, transmitter in enumerate(self.shared_signals.transmitters):
            if self.shared_signals.enabled and transmitter.issuer == own_issuer:
                at = f"at `$.shared_signals.transmitters[{index}].issuer`"
                raise ValueError(f"is our own issuer: our own signals would count as those of others - {at}")
        for index, webhook in enumerate(self.webhooks):
            if webhook.signed and not self.shared_signals.enabled:
                raise ValueError(f"needs `shared_signals.enabled`, whose keys sign - at `$.webhooks[{index}].signed`")
        callers = {caller.name for caller in self.callers}
        for member in ("audiences", "encryption"):
            for name in getattr(self.shared_signals, member):
                if name not in callers:
                    raise ValueError(f"no caller is called {name!r} - at `$.shared_signals.{member}`")

    def _apply_defaults_of_version(self) -> None:
        """Fill in or refuse members that files of version 1 may still leave out."""
        if self.outside_boundary is None:
            default = "record" if self.settings_version == 1 else "step_up"
            msgspec.structs.force_setattr(self, "outside_boundary", default)
        if self.settings_version == 1:
            return
        for index, client in enumerate(self.gateway.clients):
            if client.tenants is None:
                raise ValueError(
                    "required if `settings_version` is 2; name the tenants whose tokens it may introspect, `*` is all "
                    f"- at `$.gateway.clients[{index}].tenants`"
                )
        callers = list(self.callers)
        for index, caller in enumerate(callers):
            if caller.agents is None:  # an agent that reports itself
                try:
                    callers[index] = msgspec.structs.replace(caller, agents=(SELF,))
                except ValueError as error:
                    raise ValueError(f"{error} - at `$.callers[{index}].agents`") from None
        msgspec.structs.force_setattr(self, "callers", tuple(callers))

    def upgrade_warnings(self) -> list[str]:
        """List what a file of version 1 should name before the next release, which has the defaults of version 2."""
        callers = [caller.name for caller in self.callers if caller.agents is None and caller.issuers]
        clients = [client.client_id for client in self.gateway.clients if client.tenants is None]
        warnings = []
        if callers:
            warnings.append(
                f"callers {', '.join(callers)} name no `agents`, so each may act for every agent of its tenants and "
                'issuers; write `agents: ["*"]` (or globs) for gateways and authorization servers, `agents: [self]` '
                "for agents that report themselves; `self` is the default of the next release"
            )
        if clients:
            warnings.append(
                f"`gateway.clients` {', '.join(clients)} name no `tenants`, so each may introspect all tokens; write "
                '`tenants: [NAME]`, or `tenants: ["*"]` for all: the next release rejects these settings'
            )
        return warnings

    def tenant(self, name: str) -> TenantSettings:
        """Return the settings of a tenant: its own, else those of `*`, else the defaults."""
        return self.tenants.get(name) or self.tenants.get(ANY_TENANT) or TenantSettings()

    def domains(self) -> dict[str, tuple[str, ...]]:
        """Return domains by tenant, as `trustwatch.ingest.columns.TenantDomains` takes them."""
        return {name: tenant.domains for name, tenant in self.tenants.items() if tenant.domains}


def _check_unique(member: str, **parts: Iterable[SettingsPart]) -> None:
    """Check that names differ, also between *parts*: names of targets identify deliveries, for example."""
    seen: dict[str, str] = {}
    for part, entries in parts.items():
        for index, entry in enumerate(entries):
            name, place = getattr(entry, member), f"$.{part}[{index}]"
            if name in seen:
                raise ValueError(f"the same as that of `{seen[name]}`, must be unique - at `{place}.{member}`")
            seen[name] = place


def _check_callers(callers: Iterable[CallerSettings], issuers: list[str]) -> None:
    """Client ids are names within one issuer, so every caller must name its issuer.

    A caller sees the dead letters that carry its name, so none may have the name of the pipeline.
    """
    seen: dict[tuple[str | None, ...], int] = {}
    for index, caller in enumerate(callers):
        if caller.name == PIPELINE_SENDER:
            why = f"`{PIPELINE_SENDER}` is the name of what the pipeline refuses, of all tenants"
            raise ValueError(f"{why}: choose another name - at `$.callers[{index}].name`")
        at = f"at `$.callers[{index}].authenticated_by`"
        if caller.authenticated_by is None and caller.has_tokens and len(issuers) > 1:
            raise ValueError(f"required, since several issuers are configured; one of {', '.join(issuers)} - {at}")
        if caller.authenticated_by is not None and caller.authenticated_by not in issuers:
            raise ValueError(f"no such issuer; one of {', '.join(issuers) or '(none configured)'} - {at}")
        identity = (caller.authenticated_by, caller.client_id, caller.subject)
        if identity in seen and caller.has_tokens:
            raise ValueError(f"the same client as `$.callers[{seen[identity]}]` - at `$.callers[{index}]`")
        seen[identity] = index


def _check_certificates(callers: Iterable[CallerSettings], proofs: ProofSettings) -> None:
    """Each certificate identifies one caller, and a proxy must pass it on."""
    seen: dict[bytes | str, int] = {}
    for index, caller in enumerate(callers):
        if caller.certificate is None:
            continue
        at = f"at `$.callers[{index}].certificate`"
        if proofs.certificate_header is None:
            raise ValueError(f"needs `verification.proofs.certificate_header`, in which the proxy passes it - {at}")
        if proofs.trusted_proxies is None:
            raise ValueError(f"needs `verification.proofs.trusted_proxies`, the proxies whose header is trusted - {at}")
        credentials: list[bytes | str] = [*caller.certificate.digests(), *caller.certificate.names]
        for known in credentials:
            if seen.setdefault(known, index) != index:
                raise ValueError(f"has a fingerprint or name of `$.callers[{seen[known]}]`, must be unique - {at}")
