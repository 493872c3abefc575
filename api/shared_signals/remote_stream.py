"""Our stream at somebody else's transmitter (SSF 1.0): found by its metadata, made and kept as the settings say.

Nothing of it is stored here: a stream is ours by its description, or as the only one of a transmitter that has room for
one. Credentials go to the hosts of the settings alone, whatever metadata says.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec

from ...ingest.errors import TrustwatchError
from ...ingest.formats.received_signals import SIGNAL_RULES
from ...ingest.settings import check_url
from ...scoring.delivery.actuators.authenticators import RequestAuthenticator
from ...scoring.records.security_events import POLL_METHOD, PUSH_METHOD
from ..settings.signal_transmitter_settings import RECEIVE_PATH, SignalTransmitterSettings
from .transmitter_context import METADATA_PATH

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 * 1024

T = TypeVar("T")


class StreamNotKept(TrustwatchError):
    """A transmitter does not do what is asked of it. The message holds nothing of its answer.

    Attributes:
        status: of HTTP; 0 = it is something else that is wrong.
    """

    code = "stream_not_kept"

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class _Metadata(msgspec.Struct):
    issuer: str
    configuration_endpoint: str
    verification_endpoint: str | None = None


class _Delivery(msgspec.Struct):
    method: str
    endpoint_url: str = ""


class RemoteStreamDocument(msgspec.Struct):
    """A stream as its transmitter tells it."""

    stream_id: str
    delivery: _Delivery
    aud: str | tuple[str, ...] = ()
    events_requested: tuple[str, ...] = ()
    description: str | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """Values of `aud`."""
        return frozenset((self.aud,) if isinstance(self.aud, str) else self.aud)


class KeptStream(NamedTuple):
    """A stream that is as the settings say.

    Attributes:
        stream_id: the transmitter's.
        poll_url: where its SETs are polled; "" = they are pushed.
        changed: whether it had to be made or changed.
    """

    stream_id: str
    poll_url: str
    changed: bool


class RemoteStream:
    """The stream of one transmitter of the settings.

    Args:
        settings: of the transmitter; it has a `stream`.
        own_url: of this service, to which it pushes unless the settings say another address.
        http: client without a time limit of its own, which follows no redirects.
        authenticator: how we prove ourselves there.
    """

    def __init__(
        self,
        settings: SignalTransmitterSettings,
        own_url: str,
        http: httpx2.AsyncClient,
        authenticator: RequestAuthenticator,
    ) -> None:
        assert settings.stream is not None
        self._settings = settings
        self._stream = settings.stream
        self._receive_url = settings.stream.receive_url or f"{own_url}{RECEIVE_PATH}{settings.name}"
        self._http = http
        self._authenticator = authenticator
        self._metadata_url = settings.stream.metadata_url or metadata_url(settings.issuer)
        self._hosts = {urlsplit(url).netloc for url in (settings.issuer, self._metadata_url)}

    async def keep(self) -> KeptStream:
        """Make the stream or change it, where it is not as the settings say, and have it verified then.

        Raises:
            StreamNotKept: the transmitter does not answer, or not as SSF 1.0 says.
            TrustwatchError: no token of ours can be had.
        """
        metadata = await self._discover()
        streams = await self._streams(metadata.configuration_endpoint)
        ours = next((one for one in streams if one.description == self._description), None)
        wanted = self._wanted()
        if ours is None:
            ours = await self._create(metadata.configuration_endpoint, wanted, streams)
            changed = True
        elif changed := self._differs(ours):
            ours = await self._change(metadata.configuration_endpoint, ours, wanted)
        self._check(ours)
        if changed and metadata.verification_endpoint:
            await self._ask_for_verification(metadata.verification_endpoint, ours)
        return KeptStream(ours.stream_id, "" if self._is_pushed else ours.delivery.endpoint_url, changed)

    async def delete(self) -> bool:
        """Remove the stream at its transmitter; False = there was none of ours. Raises as `keep`."""
        endpoint = (await self._discover()).configuration_endpoint
        streams = await self._streams(endpoint)
        ours = next((one for one in streams if one.description == self._description), None)
        if ours is None:
            return False
        await self._ask("DELETE", f"{endpoint}?{urlencode({'stream_id': ours.stream_id})}", None, (200, 204))
        return True

    @property
    def _is_pushed(self) -> bool:
        return self._stream.delivery == "push"

    @property
    def _description(self) -> str:
        return f"trustwatch: {self._settings.name}"

    def _wanted(self) -> dict[str, Any]:
        """What a receiver says of a stream."""
        delivery: dict[str, Any] = {"method": POLL_METHOD}
        secret = self._settings.push_secret
        if self._is_pushed and secret is not None:
            header = f"Bearer {secret.reveal()}"
            delivery = {"method": PUSH_METHOD, "endpoint_url": self._receive_url, "authorization_header": header}
        return {"delivery": delivery, "events_requested": self._events(), "description": self._description}

    def _events(self) -> list[str]:
        believed = {rule.event_type for rule in SIGNAL_RULES if rule.treatment is not None}
        return sorted(self._stream.events or filter(self._settings.may_speak_of, believed))

    def _differs(self, ours: RemoteStreamDocument) -> bool:
        """True if it has to be changed. Of a push nobody tells the header that was given, so it is given again."""
        same = ours.delivery.method == POLL_METHOD and sorted(ours.events_requested) == self._events()
        return self._is_pushed or not same

    async def _discover(self) -> _Metadata:
        metadata = await self._ask_for(_Metadata, "GET", self._metadata_url, None, (200,), with_credentials=False)
        if metadata.issuer != self._settings.issuer:
            raise StreamNotKept(
                f"{self._metadata_url}: the metadata is of another issuer than `issuer` of the settings"
            )
        for endpoint in (metadata.configuration_endpoint, metadata.verification_endpoint):
            if endpoint is not None:
                self._check_address(endpoint)
        return metadata

    def _check_address(self, url: str) -> None:
        """Raise StreamNotKept unless our credentials may go to *url*."""
        try:
            check_url(url, "an endpoint of the transmitter", loopback_http=True)
        except ValueError as error:
            raise StreamNotKept(str(error)) from None
        if urlsplit(url).netloc not in self._hosts:
            raise StreamNotKept(
                "an endpoint of the transmitter is on another host than its `issuer` and its metadata; where that is "
                "right, make the stream by hand (`poll_url`)"
            )

    async def _streams(self, endpoint: str) -> list[RemoteStreamDocument]:
        """Streams that the transmitter has for us: it may answer one by itself, or 404 where there are none."""
        content = await self._ask("GET", endpoint, None, (200, 404))
        if not content.startswith((b"[", b"{")) or b'"stream_id"' not in content:
            return []
        kind: Any = list[RemoteStreamDocument] if content.startswith(b"[") else RemoteStreamDocument
        found = _decode(content, kind)
        return found if isinstance(found, list) else [found]

    async def _create(
        self, endpoint: str, wanted: Mapping[str, Any], streams: list[RemoteStreamDocument]
    ) -> RemoteStreamDocument:
        try:
            return await self._ask_for(RemoteStreamDocument, "POST", endpoint, wanted, (200, 201))
        except StreamNotKept as refused:
            if refused.status != httpx2.codes.CONFLICT or len(streams) != 1 or streams[0].description:
                raise
        return await self._change(endpoint, streams[0], wanted)  # there is room for one, and its description is lost

    async def _change(
        self, endpoint: str, ours: RemoteStreamDocument, wanted: Mapping[str, Any]
    ) -> RemoteStreamDocument:
        body = {"stream_id": ours.stream_id, **wanted}
        return await self._ask_for(RemoteStreamDocument, "PATCH", endpoint, body, (200, 202))

    def _check(self, ours: RemoteStreamDocument) -> None:
        """Raise StreamNotKept unless what comes by the stream will be taken."""
        if ours.audiences.isdisjoint(self._settings.audiences):
            raise StreamNotKept("the stream's `aud` is none of `audiences` of the settings: name it there")
        if ours.delivery.method != (PUSH_METHOD if self._is_pushed else POLL_METHOD):
            raise StreamNotKept(f"the transmitter does not deliver by {self._stream.delivery}")
        if not self._is_pushed:
            self._check_address(ours.delivery.endpoint_url)

    async def _ask_for_verification(self, endpoint: str, ours: RemoteStreamDocument) -> None:
        """Have a SET sent that says nothing, so that a stream which does not work is seen in the transmitter's log."""
        body = {"stream_id": ours.stream_id, "state": secrets.token_hex(8)}
        await self._ask("POST", endpoint, body, (200, 202, 204, 429))

    async def _ask_for(
        self, kind: type[T], method: str, url: str, body: Any, expected: tuple[int, ...], **how: bool
    ) -> T:
        return _decode(await self._ask(method, url, body, expected, **how), kind)

    async def _ask(
        self, method: str, url: str, body: Any, expected: tuple[int, ...], *, with_credentials: bool = True
    ) -> bytes:
        headers = {"accept": "application/json"}
        content = None
        if body is not None:
            headers["content-type"], content = "application/json", msgspec.json.encode(body)
        if with_credentials:
            headers |= await self._authenticator.headers()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._request(method, url, content, headers, expected)
        except TimeoutError:
            raise StreamNotKept(f"{method} {url}: no answer in time") from None
        except httpx2.HTTPError as error:
            raise StreamNotKept(f"{method} {url}: {type(error).__name__}") from None

    async def _request(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str], expected: tuple[int, ...]
    ) -> bytes:
        async with self._http.stream(method, url, content=content, headers=dict(headers)) as response:
            if response.status_code not in expected:
                if response.status_code == httpx2.codes.UNAUTHORIZED:
                    self._authenticator.invalidate()
                raise StreamNotKept(f"{method} {url}: HTTP {response.status_code}", response.status_code)
            read = bytearray()
            async for chunk in response.aiter_bytes():
                read += chunk
                if len(read) > MAX_ANSWER_BYTES:
                    raise StreamNotKept(f"{method} {url}: an answer of more than {MAX_ANSWER_BYTES} bytes")
        return bytes(read).strip()


def metadata_url(issuer: str) -> str:
    """Where a transmitter's metadata is: its path stands behind the well-known part (SSF 1.0, section 7.2)."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{parts.path.rstrip('/')}"


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise StreamNotKept("the transmitter's answer is none of SSF 1.0") from None
