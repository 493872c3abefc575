"""Shared signals: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from trustwatch.ingest.timestamps import DAY_S
from trustwatch.scoring.delivery.actuators.actuator_factory import ActuatorFactory
from trustwatch.scoring.delivery.actuators.authenticators import AssertionSigner
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client

from ..composition import service_url
from ..events.intake import EventIntake
from ..http.auth.set_decryption import SetDecryption
from ..http.auth.signing import assertion_signer
from ..http.prometheus_metrics import LabelledValues, MetricValues
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import FastRoute, LifespanService, Slice
from ..http.store_executor import StoreExecutor
from .push_endpoint import PushEndpoint
from .remote_stream import RemoteStream
from .routes import SCOPE_WORDS, router, streams
from .service import SharedSignalsService
from .signal_poller import SignalPoller, TransmitterPoll
from .signal_receiver import SignalReceiver
from .transmitter_context import KEY_DAYS, TransmitterContext, key_folder
from .verification_states import VerificationStates


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    """Both sides, where the settings turn them on."""
    return (*_make_transmitter(services), *_make_receiver(services))


def _make_receiver(services: ServiceRegistry) -> Sequence[object]:
    runtime = services.get(Runtime)
    transmitters = runtime.settings.shared_signals.transmitters
    if not transmitters:
        return ()
    states = VerificationStates(key_folder(runtime.settings), runtime.clock)
    receiver = SignalReceiver(
        transmitters,
        runtime.settings.verification,
        services.get(EventIntake),
        runtime.store.received_signals,
        services.get(StoreExecutor),
        runtime.store.identities,
        runtime.clock,
        runtime.monotonic,
        states,
        _make_decryption(runtime),
        runtime.settings.outgoing.ca_file,
    )
    return receiver, PushEndpoint(receiver), _make_poller(runtime, receiver, states)


def _make_decryption(runtime: Runtime) -> SetDecryption | None:
    """Decryption for the transmitters of the settings. Raises ConfigError: its library is not installed."""
    part = runtime.settings.shared_signals
    encrypting = [transmitter.name for transmitter in part.transmitters if transmitter.encrypted != "refuse"]
    if not encrypting:
        return None
    needed_by = f"`encrypted` of `shared_signals.transmitters` ({', '.join(encrypting)}) takes encrypted tokens"
    folder, rotation_s = key_folder(runtime.settings), KEY_DAYS * DAY_S
    return SetDecryption(folder, rotation_s, runtime.clock, runtime.monotonic, needed_by)


def _make_poller(runtime: Runtime, receiver: SignalReceiver, states: VerificationStates) -> SignalPoller:
    def make_signer(private_key: str, key_id: str) -> AssertionSigner:
        return assertion_signer(private_key, key_id, runtime.clock, runtime.new_id)

    http = make_webhook_client(runtime.settings.outgoing.ca_file)
    factory = ActuatorFactory(http, make_signer, runtime.now_ms, runtime.monotonic)
    polls: list[TransmitterPoll] = []
    streams: dict[str, RemoteStream] = {}
    for name, transmitter in receiver.transmitters.items():
        settings = transmitter.settings
        authenticator = factory.request_authenticator(settings.auth)
        if settings.poll_url is not None or settings.polls_own_stream:
            polls.append(TransmitterPoll(transmitter, receiver, http, authenticator, runtime.monotonic))
        if settings.stream is not None:
            streams[name] = RemoteStream(settings, service_url(runtime.settings), http, authenticator, states)
    return SignalPoller(polls, streams, http, runtime.store.database, receiver)


def _make_transmitter(services: ServiceRegistry) -> Sequence[object]:
    """The service of streams; its context is the composition root's where that made one."""
    runtime = services.get(Runtime)
    settings = runtime.settings
    if not settings.shared_signals.enabled:
        return ()
    existing = services.find(TransmitterContext)
    context = existing or TransmitterContext(settings, runtime.clock, runtime.monotonic)
    service = SharedSignalsService(
        context,
        runtime.store.security_events,
        services.get(StoreExecutor),
        settings.shared_signals.audiences,
        runtime.now_ms,
        runtime.monotonic,
    )
    return (context.answers, service) if existing is not None else (context, context.answers, service)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    context = services.find(TransmitterContext)
    encryption = None if context is None else context.encryption
    parts = encryption, services.find(SignalReceiver), services.find(SignalPoller)
    return [service for service in parts if service is not None]


def _fast_routes(services: ServiceRegistry) -> Sequence[FastRoute]:
    endpoint = services.find(PushEndpoint)
    return () if endpoint is None else (endpoint,)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    return {**_received_values(services), **_transmitted_values(services)}


def _received_values(services: ServiceRegistry) -> dict[str, LabelledValues]:
    receiver = services.find(SignalReceiver)
    if receiver is None:
        return {}
    return {"trustwatch_received_signals_total": {labels: count for labels, count in receiver.outcomes.items()}}


def _transmitted_values(services: ServiceRegistry) -> dict[str, LabelledValues]:
    context = services.find(TransmitterContext)
    if context is None:
        return {}
    return {"trustwatch_security_events_total": {(outcome,): count for outcome, count in context.outcomes.items()}}


SLICE = Slice(
    "shared_signals",
    routers=(router, streams),
    services=_make_services,
    lifespans=_lifespans,
    fast_routes=_fast_routes,
    metrics=_metric_values,
    scopes=SCOPE_WORDS,
)
