"""Our stream at another party's transmitter (SSF 1.0): found by its metadata, created and kept as configured.

Nothing of it is stored here: a stream is ours by its description, which a transmitter may cut; if it keeps none, by the
address that it pushes to, as the one that this process has created, or as the only one of a transmitter that has room
for one. Credentials go only to the hosts of the settings, whatever the metadata contains.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec
import structlog

from trustwatch.ingest.errors import ConfigError, TrustwatchError
from trustwatch.ingest.formats.received_signals import SIGNAL_RULES
from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch.ingest.settings import check_url
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD, StreamStatus

from ..settings.shared_signals_settings import RECEIVE_PATH, SignalTransmitterSettings
from .transmitter_context import METADATA_PATH, VerificationStates

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 * 1024

_DONE: Final = (200, 202, 204)  # The specification has one of them for each request; transmitters mix them up

ASKED_BY_US: Final = "trustwatch signals:"
"""Beginning of the reason of a status that an operator has set here: it survives a restart."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class TransmitterError(TrustwatchError):
    """A transmitter did not do what was requested. The message holds nothing of its answer.

    Attributes:
        status: of HTTP; 0 = it is something else that is wrong.
    """

    code = "transmitter"

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


async def ask_transmitter(
    http: httpx2.AsyncClient,
    authenticator: RequestAuthenticator | None,
    method: str,
    url: str,
    body: Any = None,
    expected: Collection[int] = (200,),
    *,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_ANSWER_BYTES,
    language: bool = False,
) -> bytes:
    """Send one request, whose body is JSON; return the body of the answer. *language*: state that texts are English.

    Raises TransmitterError; as the authenticator does.
    """
    headers, content, where = {"accept": "application/json"}, None, f"{method} {url.partition('?')[0]}"
    if body is not None:
        headers["content-type"], content = "application/json", msgspec.json.encode(body)
    if language:
        headers["content-language"] = "en"
    if authenticator is not None:
        headers |= await authenticator.headers()
    try:
        async with asyncio.timeout(timeout_s), http.stream(method, url, content=content, headers=headers) as response:
            if response.status_code not in expected:
                if response.status_code == httpx2.codes.UNAUTHORIZED and authenticator is not None:
                    authenticator.invalidate()
                raise TransmitterError(f"{where}: HTTP {response.status_code}", response.status_code)
            read = bytearray()
            async for chunk in response.aiter_bytes():
                read += chunk
                if len(read) > max_bytes:
                    raise TransmitterError(f"{where}: an answer of more than {max_bytes} bytes")
    except TimeoutError:
        raise TransmitterError(f"{where}: no answer in time") from None
    except httpx2.HTTPError as error:
        raise TransmitterError(f"{where}: {connection_error_text(error)}") from None
    return bytes(read).strip()


def decode_answer(content: bytes | msgspec.Raw, kind: type[T], standard: str = "SSF 1.0") -> T:
    """The answer of a transmitter. Raises TransmitterError."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TransmitterError(f"the transmitter's answer is none of {standard}") from None


class _Metadata(msgspec.Struct):
    issuer: str
    configuration_endpoint: str
    status_endpoint: str | None = None
    add_subject_endpoint: str | None = None
    remove_subject_endpoint: str | None = None
    verification_endpoint: str | None = None


class _Delivery(msgspec.Struct):
    method: str = ""
    endpoint_url: str | None = None


class RemoteStreamDocument(msgspec.Struct):
    """A stream as its transmitter reports it."""

    stream_id: str
    iss: str | None = None
    delivery: _Delivery = msgspec.field(default_factory=_Delivery)
    aud: str | tuple[str, ...] | None = None
    events_requested: tuple[str, ...] | None = None
    description: str | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """Values of `aud`."""
        return frozenset((self.aud,) if isinstance(self.aud, str) else self.aud or ())


class RemoteStatus(msgspec.Struct, omit_defaults=True):
    """Status of a stream as its transmitter reports it."""

    stream_id: str
    status: StreamStatus
    reason: str | None = None


class KeptStream(NamedTuple):
    """A stream that matches the settings."""

    stream_id: str  # the transmitter's
    poll_url: str  # URL at which its SETs are polled; "" = they are pushed
    changed: bool  # whether it had to be made or changed
    state: str = ""  # of the verification that was requested; "" = none was
    status: str = ""  # as the transmitter reports it; "" = not reported


class RemoteStream:
    """The stream of one transmitter of the settings."""

    def __init__(
        self,
        settings: SignalTransmitterSettings,
        own_url: str,
        http: httpx2.AsyncClient,
        authenticator: RequestAuthenticator,
        states: VerificationStates,
    ) -> None:
        assert settings.stream is not None
        self._settings = settings
        self._stream = settings.stream
        self._receive_url = settings.stream.receive_url or f"{own_url}{RECEIVE_PATH}{settings.name}"
        self._http = http
        self._authenticator = authenticator
        self._states = states
        self._metadata_url = settings.stream.metadata_url or metadata_url(settings.issuer)
        self._hosts = {_origin(url) for url in (settings.issuer, self._metadata_url)}
        digest = hashlib.sha256(f"{own_url} {settings.name}".encode()).hexdigest()[:8]
        self._mark = f"trustwatch {digest}"
        """Beginning of our description: two services with one client at a transmitter do not take each other's."""
        if not self._events():
            raise ConfigError(f"`events` of the stream at {settings.name!r} name none that is believed of it")
        self._made = ""
        self._before: frozenset[str] | None = None
        """Streams that existed before we created ours, if the answer to that could not be read; None = it could."""

    async def keep(self, *, replace: bool = False) -> KeptStream:
        """Create the stream, or change it if it differs from the settings, and then have it verified.

        Raises TransmitterError, TrustwatchError.
        """
        metadata = await self._discover()
        endpoint, delivery = metadata.configuration_endpoint, {"method": POLL_METHOD}
        secret = self._settings.push_secret
        if self.is_pushed and secret is not None:
            header = f"Bearer {secret.reveal()}"
            delivery = {"method": PUSH_METHOD, "endpoint_url": self._receive_url, "authorization_header": header}
        members = {"delivery": delivery, "events_requested": self._events(), "description": self._description}
        streams = await self._streams(endpoint)
        ours = self._find(streams) or await self._find_created(endpoint)
        changed = True
        if ours is None:
            ours = await self._create(endpoint, members, streams)
        elif replace or self.is_pushed or not self._matches(ours):  # no transmitter returns the header for pushes
            ours = await self._change(endpoint, ours, members, "PUT" if replace else "PATCH")
        else:
            changed = False
        self._made, self._before = ours.stream_id, None
        self._check(ours)
        status = await self._enabled(metadata, ours.stream_id)
        state = ""
        if changed and metadata.verification_endpoint is not None:
            try:
                state = await self._ask_for_verification(metadata, ours.stream_id)
            except TransmitterError as refused:  # the stream exists all the same
                _log.warning("signal_stream_unverified", transmitter=self._settings.name, error=str(refused))
        poll_url = "" if self.is_pushed else ours.delivery.endpoint_url or ""
        return KeptStream(ours.stream_id, poll_url, changed, state, status)

    async def delete(self) -> bool:
        """Remove the stream at its transmitter; False = we had none. Raises as `keep`."""
        endpoint = (await self._discover()).configuration_endpoint
        ours = self._find(await self._streams(endpoint))
        if ours is None:
            return False
        self._made = ""
        await self._ask("DELETE", _about(endpoint, ours.stream_id))
        return True

    async def status(self) -> RemoteStatus:
        """Status of our stream, as the transmitter reports it. Raises as `keep`, and if we have none."""
        return await self._status_of(*await self._ours())

    async def _status_of(self, metadata: _Metadata, stream_id: str) -> RemoteStatus:
        endpoint = _about(self._endpoint(metadata, "status_endpoint"), stream_id)
        return decode_answer(await self._ask("GET", endpoint, None, (200,)), RemoteStatus)

    async def _enabled(self, metadata: _Metadata, stream_id: str) -> str:
        """Status of our stream. If the transmitter stopped it itself, as after our outage, it is enabled."""
        if metadata.status_endpoint is None:
            return ""
        try:
            answer = await self._status_of(metadata, stream_id)
            if answer.status != "enabled" and not (answer.reason or "").startswith(ASKED_BY_US):
                _log.warning("signal_stream_stopped", transmitter=self._settings.name, status=answer.status)
                answer = await self._set_status(metadata, stream_id, "enabled", "")
        except TransmitterError as refused:
            _log.warning("signal_stream_status", transmitter=self._settings.name, error=str(refused))
            return ""
        if answer.status != "enabled":
            _log.error("signal_stream_stopped", transmitter=self._settings.name, status=answer.status)
        return answer.status

    async def set_status(self, status: StreamStatus, reason: str = "") -> RemoteStatus:
        """Have our stream enabled, paused or disabled; what it is then. Raises as `status`.

        The reason tells `keep` that an operator here set it.
        """
        metadata, stream_id = await self._ours()
        return await self._set_status(metadata, stream_id, status, f"{ASKED_BY_US} {reason}".strip())

    async def _set_status(self, metadata: _Metadata, stream_id: str, status: StreamStatus, reason: str) -> RemoteStatus:
        body = {"stream_id": stream_id, "status": status} | ({"reason": reason} if reason else {})
        content = await self._ask("POST", self._endpoint(metadata, "status_endpoint"), body)
        return decode_answer(content, RemoteStatus) if content else await self._status_of(metadata, stream_id)

    async def set_subject(self, subject: Mapping[str, Any], *, wanted: bool) -> None:
        """Have a subject added to our stream, or removed from it. Raises as `status`."""
        metadata, stream_id = await self._ours()
        endpoint = self._endpoint(metadata, "add_subject_endpoint" if wanted else "remove_subject_endpoint")
        await self._ask("POST", endpoint, {"stream_id": stream_id, "subject": subject})

    async def verify(self) -> str:
        """Request a verification of our stream; returns its state, which comes back later. Raises as `status`."""
        metadata, stream_id = await self._ours()
        return await self._ask_for_verification(metadata, stream_id)

    async def _ours(self) -> tuple[_Metadata, str]:
        metadata = await self._discover()
        streams = await self._streams(metadata.configuration_endpoint)
        ours = self._find(streams)
        if ours is None and len(streams) == 1 and not streams[0].description:
            ours = streams[0]  # of a transmitter that keeps no descriptions
        if ours is None:
            raise TransmitterError("there is no stream of ours: `trustwatch signals keep` makes it")
        return metadata, ours.stream_id

    def _find(self, listed: Sequence[RemoteStreamDocument]) -> RemoteStreamDocument | None:
        created = [stream for stream in listed if stream.stream_id == self._made]
        described = [stream for stream in listed if self._is_ours(stream.description)]
        address = self._receive_url if self.is_pushed else None
        addressed = [stream for stream in listed if address is not None and stream.delivery.endpoint_url == address]
        new = [] if self._before is None else [stream for stream in listed if stream.stream_id not in self._before]
        ours = created or described or addressed or (new if len(new) == 1 else [])
        return ours[0] if ours else None

    def _is_ours(self, description: str | None) -> bool:
        """True for our description, also if the transmitter has cut it (SSF 1.0, section 8.1.1)."""
        said = description or ""
        return len(said) >= len(self._mark) and self._description.startswith(said)

    def _endpoint(self, metadata: _Metadata, name: str) -> str:
        """An endpoint of the metadata. Raises TransmitterError: there is none, or our credentials may not go there."""
        url: str | None = getattr(metadata, name)
        if url is None:
            raise TransmitterError(f"the transmitter offers nothing of the kind: its metadata has no {name}")
        self._check_address(url)
        return url

    @property
    def is_pushed(self) -> bool:
        """True if its SETs are pushed to us."""
        return self._stream.delivery == "push"

    @property
    def _description(self) -> str:
        return f"{self._mark} ({self._settings.name})"

    def _events(self) -> list[str]:
        believed = {rule.event_type for rule in SIGNAL_RULES if rule.treatment is not None}
        return sorted(self._stream.events or filter(self._settings.may_speak_of, believed))

    def _matches(self, ours: RemoteStreamDocument) -> bool:
        return ours.delivery.method == POLL_METHOD and sorted(ours.events_requested or ()) == self._events()

    async def _discover(self) -> _Metadata:
        metadata = decode_answer(await ask_transmitter(self._http, None, "GET", self._metadata_url), _Metadata)
        if metadata.issuer != self._settings.issuer:
            error = "the metadata is of another issuer than `issuer` of the settings"
            raise TransmitterError(f"{self._metadata_url}: {error}")
        for endpoint in (metadata.configuration_endpoint, metadata.verification_endpoint):
            if endpoint is not None:
                self._check_address(endpoint)
        return metadata

    def _check_address(self, url: str) -> None:
        """Raise TransmitterError unless our credentials may go to *url*."""
        try:
            check_url(url, "an endpoint of the transmitter", loopback_http=True)
        except ValueError as error:
            raise TransmitterError(str(error)) from None
        if _origin(url) not in self._hosts:
            raise TransmitterError(
                "an endpoint of the transmitter is on another host than its `issuer` and its metadata; where that is "
                "right, make the stream by hand (`poll_url`)"
            )

    async def _streams(self, endpoint: str) -> list[RemoteStreamDocument]:
        """Streams that the transmitter has for us: it may answer a single object, or 404 if there are none."""
        content = await self._ask("GET", endpoint, None, (200, 404))
        if not content.startswith((b"[", b"{")) or b'"stream_id"' not in content:
            return []
        documents = decode_answer(content, list[msgspec.Raw]) if content.startswith(b"[") else [content]
        streams: list[RemoteStreamDocument] = []
        for document in documents:
            with contextlib.suppress(TransmitterError):  # other parties' streams may be of any shape
                streams.append(decode_answer(document, RemoteStreamDocument))
        return streams

    async def _find_created(self, endpoint: str) -> RemoteStreamDocument | None:
        """Return the stream that this process created, if the transmitter does not list it but still has it."""
        if self._made:
            named = await self._streams(_about(endpoint, self._made))
            ours = next((stream for stream in named if stream.stream_id == self._made), None)
            if ours is not None:
                return ours
            self._made = ""
        if self._before is not None:
            raise TransmitterError("a stream was made here whose answer could not be read: look there, and restart")
        return None

    async def _create(
        self, endpoint: str, members: Mapping[str, Any], streams: list[RemoteStreamDocument]
    ) -> RemoteStreamDocument:
        try:
            content = await self._ask("POST", endpoint, members, (200, 201))
        except TransmitterError as refused:
            if refused.status != httpx2.codes.CONFLICT or len(streams) != 1:
                raise
            if not self._description.startswith(streams[0].description or ""):
                raise
            # There is room for one, and its description is lost, or cut so far that it identifies nothing.
            return await self._change(endpoint, streams[0], members)
        self._before = frozenset(stream.stream_id for stream in streams)  # from here on no other is made
        ours = decode_answer(content, RemoteStreamDocument)
        if not self._is_ours(ours.description) and not self.is_pushed:
            _log.error("signal_stream_without_description", transmitter=self._settings.name)
        return await self._read(endpoint, ours)

    async def _change(
        self, endpoint: str, ours: RemoteStreamDocument, members: Mapping[str, Any], method: str = "PATCH"
    ) -> RemoteStreamDocument:
        body = {"stream_id": ours.stream_id, **members}
        if not self.is_pushed and ours.delivery.method == POLL_METHOD:
            # The transmitter sets its address, and some forget it if it is omitted.
            body["delivery"] = {"method": POLL_METHOD, "endpoint_url": ours.delivery.endpoint_url}
            if method == "PATCH":
                del body["delivery"]
        content = await self._ask(method, endpoint, body)
        return await self._read(endpoint, decode_answer(content, RemoteStreamDocument) if content else ours)

    async def _read(self, endpoint: str, changed: RemoteStreamDocument) -> RemoteStreamDocument:
        """The stream as its transmitter has it after a change: read by its id, else from the list, else as answered."""
        if changed.iss not in (None, self._settings.issuer):
            return changed  # nothing more is requested of a stream that will not be used
        for address in (_about(endpoint, changed.stream_id), endpoint):
            with contextlib.suppress(TransmitterError):  # the change is made, and its answer has the status
                found = [one for one in await self._streams(address) if one.stream_id == changed.stream_id]
                if found:
                    return found[0]
        return changed

    def _check(self, ours: RemoteStreamDocument) -> None:
        """Raise TransmitterError unless SETs of the stream will be accepted."""
        if ours.iss not in (None, self._settings.issuer):
            raise TransmitterError("the stream's `iss` is another one than `issuer` of the settings: it is not used")
        if ours.audiences.isdisjoint(self._settings.audiences):
            raise TransmitterError("the stream's `aud` is none of `audiences` of the settings: name it there")
        if ours.delivery.method != (PUSH_METHOD if self.is_pushed else POLL_METHOD):
            raise TransmitterError(f"the transmitter does not deliver by {self._stream.delivery}")
        if not self.is_pushed:
            self._check_address(ours.delivery.endpoint_url or "")

    async def _ask_for_verification(self, metadata: _Metadata, stream_id: str) -> str:
        """Have a SET sent that only returns the state, which proves that a stream works."""
        endpoint = self._endpoint(metadata, "verification_endpoint")
        state = await asyncio.to_thread(self._states.make, self._settings.name, stream_id)
        await self._ask("POST", endpoint, {"stream_id": stream_id, "state": state})
        return state

    async def _ask(self, method: str, url: str, body: Any = None, expected: Collection[int] = _DONE) -> bytes:
        return await ask_transmitter(self._http, self._authenticator, method, url, body, expected)


def metadata_url(issuer: str) -> str:
    """URL of a transmitter's metadata: its path follows the well-known part (SSF 1.0, section 7.2)."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{parts.path.rstrip('/')}"


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _about(endpoint: str, stream_id: str) -> str:
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode({'stream_id': stream_id})}"
