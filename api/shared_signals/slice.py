"""Shared signals: what the slice adds to the application."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.timestamps import DAY_S
from trustwatch.scoring.delivery.actuators.actuator_factory import ActuatorFactory
from trustwatch.scoring.delivery.actuators.authenticators import AssertionSigner
from trustwatch.scoring.delivery.notifiers.webhook_notifier import SET_MEDIA_TYPE, make_webhook_client

from .. import clock
from ..events.intake import EventIntake
from ..http.auth.set_verification import MAX_SET_BYTES, SetRefused
from ..http.auth.signing import SetDecryption, assertion_signer
from ..http.fast_path import RequestBodyTooLong, read_request_body
from ..http.ledger import Overloaded
from ..http.prometheus_metrics import LabelledValues, MetricValues
from ..http.refused_callers import LineLimit
from ..http.runtime import Runtime
from ..http.slice import LifespanService, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..settings.shared_signals_settings import RECEIVE_PATH
from .remote_stream import RemoteStream
from .routes import SCOPE_WORDS, router, streams
from .service import SharedSignalsService
from .signal_poller import SignalPoller, TransmitterPoll
from .signal_receiver import NotNow, SignalReceiver, SignalTransmitter
from .transmitter_context import KEY_DAYS, TransmitterContext, VerificationStates, key_folder

# The transmitter authenticates with a secret that only the settings and its stream there hold, before a byte of the
# body is read; the SET is authenticated by its signature. It is answered once the log has it.

RETRY_AFTER_S: Final = 10.0  # Seconds after which a push that could not be judged or kept is worth another attempt

_BEARER: Final = b"bearer "
_NO_STORE: Final = (b"cache-control", b"no-store")

_log = structlog.get_logger(__name__)


_Answer = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]
"""Status, headers and body of the answer to a push."""


class PushEndpoint:
    """ASGI handler of the pushes of all transmitters that have a secret."""

    def __init__(self, receiver: SignalReceiver) -> None:
        self._receiver = receiver
        self._refusals = LineLimit(clock.monotonic)
        self._transmitters = {
            f"{RECEIVE_PATH}{name}".encode(): transmitter for name, transmitter in receiver.transmitters.items()
        }

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This endpoint, if the percent-encoded *path* is that of a transmitter."""
        return self if path in self._transmitters else None

    def template(self, path: bytes) -> str:
        """See `FastRoute`: paths of transmitters are those of the settings."""
        return path.decode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one push."""
        transmitter = self._transmitters[scope["raw_path"]]
        try:
            answer = await self._answer(transmitter, scope, receive)
        except SetRefused as refused:
            why = refused.description
            self._refusals.write(_log.warning, "push_refused", transmitter=transmitter.name, err=refused.err, why=why)
            answer = _refusal(self._receiver.refuse(transmitter, refused))
        except NotNow as put_off:
            answer = _later(put_off.status, put_off.retry_after_s)
        except Overloaded as error:
            answer = _later(429, error.retry_after_s)
        except Unavailable:
            answer = _later(503, RETRY_AFTER_S)
        except Exception as error:  # no local variables in the log: one of them is a token
            _log.error("push_not_taken", transmitter=transmitter.name, error=type(error).__name__)
            answer = _later(500, RETRY_AFTER_S)
        if answer is None:
            return
        status, headers, body = answer
        headers = (*headers, _NO_STORE, (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, transmitter: SignalTransmitter, scope: Scope, receive: Receive) -> _Answer | None:
        """Return the answer; None if the transmitter disconnected before its SET was complete.

        Raises SetRefused, NotNow, Unavailable.
        """
        if scope["method"] != "POST":
            return 405, ((b"allow", b"POST"),), b""
        secret = transmitter.settings.push_secret
        if secret is None:
            raise SetRefused("access_denied", "this transmitter does not push here: its settings have no `push_secret`")
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        credentials = given[0][len(_BEARER) :].strip(b" ") if len(given) == 1 else b""
        right = secret.matches(credentials)
        if not right or given[0][: len(_BEARER)].lower() != _BEARER:
            error = "the Authorization header is not the one given to this transmitter"
            raise SetRefused("authentication_failed", error)
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        kinds = [value.partition(b";")[0].strip().lower() for value in types]
        if kinds != [SET_MEDIA_TYPE.encode()]:
            raise SetRefused("invalid_request", f"the Content-Type of a SET is {SET_MEDIA_TYPE}")
        try:
            body = await read_request_body(receive, MAX_SET_BYTES)
        except RequestBodyTooLong:
            raise SetRefused("invalid_request", f"a SET may have {MAX_SET_BYTES} bytes") from None
        if body is None:
            return None
        (answer,) = await self._receiver.take(transmitter, [body])
        if isinstance(answer, NotNow):
            raise answer
        return (202, (), b"") if answer is None else _refusal(answer)


def _refusal(refused: SetRefused) -> _Answer:
    body = msgspec.json.encode({"err": refused.err, "description": refused.description})
    return 400, ((b"content-type", b"application/json"), (b"content-language", b"en")), body


def _later(status: int, after_s: float) -> _Answer:
    return status, ((b"retry-after", b"%d" % max(1, math.ceil(after_s))),), b""


def _make_receiver(services: ServiceRegistry) -> Sequence[object]:
    runtime = services.get(Runtime)
    transmitters = runtime.settings.shared_signals.transmitters
    if not transmitters:
        return ()
    states = VerificationStates(key_folder(runtime.settings), runtime.clock)
    receiver = SignalReceiver(
        {settings.name: SignalTransmitter(settings) for settings in transmitters},
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
            streams[name] = RemoteStream(settings, runtime.settings.listen.url(), http, authenticator, states)
    return SignalPoller(polls, streams, http, runtime.store.database, receiver)


def _make_transmitter(services: ServiceRegistry) -> Sequence[object]:
    """The service of streams; its context is the composition root's if that made one."""
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


def _metric_values(services: ServiceRegistry) -> MetricValues:
    receiver, context = services.find(SignalReceiver), services.find(TransmitterContext)
    values: dict[str, LabelledValues] = {}
    if receiver is not None:
        values["trustwatch_received_signals_total"] = dict(receiver.outcomes.items())
    if context is not None:
        values["trustwatch_security_events_total"] = {(word,): count for word, count in context.outcomes.items()}
    return values


SLICE = Slice(
    "shared_signals",
    routers=(router, streams),
    services=lambda services: (*_make_transmitter(services), *_make_receiver(services)),
    lifespans=_lifespans,
    fast_routes=lambda services: [route for route in (services.find(PushEndpoint),) if route is not None],
    metrics=_metric_values,
    scopes=SCOPE_WORDS,
)
