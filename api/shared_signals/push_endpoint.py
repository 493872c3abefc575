"""`POST /ssf/receive/NAME`: security event tokens that a transmitter pushes (RFC 8935).

The transmitter proves itself by a secret that only the settings and its stream there hold, before a byte of the body is
read; what the SET says is proved by its signature. It is answered once the log has it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.delivery.shared_signals.set_push import SET_MEDIA_TYPE

from .. import clock
from ..events.intake_limits import Overloaded
from ..http.auth.set_verification import MAX_SET_BYTES, SetErrorCode, SetRefused
from ..http.line_limit import LineLimit
from ..http.request_body import RequestBodyTooLong, read_request_body
from ..settings.signal_transmitter_settings import RECEIVE_PATH
from .signal_receiver import NotNow, SignalReceiver, SignalTransmitter

RETRY_AFTER_S: Final = 10.0
"""Seconds after which a push that could not be judged or kept is worth another attempt."""

_BEARER: Final = b"bearer "
_NO_STORE: Final = (b"cache-control", b"no-store")

_log = structlog.get_logger(__name__)


class PushAnswer(NamedTuple):
    """Answer to a push."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class PushEndpoint:
    """ASGI handler of the pushes of all transmitters that have a secret."""

    def __init__(self, receiver: SignalReceiver) -> None:
        self._receiver = receiver
        self._refusals = LineLimit(clock.monotonic)
        self._transmitters = {
            f"{RECEIVE_PATH}{name}".encode(): transmitter for name, transmitter in receiver.transmitters.items()
        }

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This endpoint, where *path*, percent-encoded as it came, is that of a transmitter."""
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
        except Exception as error:  # no local variables of ours in the log: one of them is a token
            _log.error("push_not_taken", transmitter=transmitter.name, error=type(error).__name__)
            answer = _later(500, RETRY_AFTER_S)
        if answer is None:
            return
        headers = [*answer.headers, _NO_STORE, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, transmitter: SignalTransmitter, scope: Scope, receive: Receive) -> PushAnswer | None:
        """The answer; None where the transmitter went away before its SET was whole. Raises SetRefused, NotNow."""
        if scope["method"] != "POST":
            return PushAnswer(405, ((b"allow", b"POST"),))
        given = [(name, value) for name, value in scope["headers"] if name in (b"authorization", b"content-type")]
        _authenticate(transmitter, [value for name, value in given if name == b"authorization"])
        kinds = [value.partition(b";")[0].strip().lower() for name, value in given if name == b"content-type"]
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
        return PushAnswer(202) if answer is None else _refusal(answer)


def _authenticate(transmitter: SignalTransmitter, given: list[bytes]) -> None:
    """Raise SetRefused unless the request has the secret of the transmitter, once."""
    secret = transmitter.settings.push_secret
    if secret is None:
        raise SetRefused("access_denied", "this transmitter does not push here: its settings have no `push_secret`")
    credentials = given[0][len(_BEARER) :].strip(b" ") if len(given) == 1 else b""
    right = secret.matches(credentials)
    if not right or given[0][: len(_BEARER)].lower() != _BEARER:
        raise SetRefused("authentication_failed", "the Authorization header is not the one given to this transmitter")


def _refusal(refused: SetRefused) -> PushAnswer:
    said: dict[str, SetErrorCode | str] = {"err": refused.err, "description": refused.description}
    headers = ((b"content-type", b"application/json"), (b"content-language", b"en"))
    return PushAnswer(400, headers, msgspec.json.encode(said))


def _later(status: int, after_s: float) -> PushAnswer:
    return PushAnswer(status, ((b"retry-after", b"%d" % max(1, math.ceil(after_s))),))
