"""Actuators of servers that show their clients, over the calls of an admin API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

import httpx2
import msgspec

from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch_client.timing import parse_retry_after

from .actuator import (
    ActuationNotConfirmed,
    ActuationResult,
    ActuatorAccessDenied,
    ActuatorError,
    ActuatorUnavailable,
    UnknownClient,
    error_detail,
)
from .authenticators import RequestAuthenticator
from .desired_state import DesiredState


class AdminApi:
    """One admin API."""

    def __init__(
        self, http: httpx2.AsyncClient, url: str, auth: RequestAuthenticator, now_ms: Callable[[], int]
    ) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._auth = auth
        self._now_ms = now_ms

    async def call(
        self, method: str, path: str, *, expect: Collection[int] = (200, 204), missing: str = "", **request: Any
    ) -> httpx2.Response:
        """Sends one request; once more with new credentials if they are rejected.

        Raises:
            UnknownClient: 404, if *missing* declares that for a client.
            Refused: our credentials are rejected, or lack a right.
            ActuatorUnavailable: anything else.
        """
        answer = await self._send(method, path, request)
        if answer.status_code == 401:
            self._auth.invalidate()
            answer = await self._send(method, path, request)
        status = answer.status_code
        if status in expect:
            return answer
        where = f"{method} {path.split('?', 1)[0]}: HTTP {status}{error_detail(answer)}"
        if status == 404 and missing:
            raise UnknownClient(missing)
        if status in (401, 403):
            raise ActuatorAccessDenied(f"{where} - the server does not take our credentials, or they lack a right")
        raise ActuatorUnavailable(where, parse_retry_after(answer.headers.get("retry-after"), self._now_ms() / 1000))

    async def _send(self, method: str, path: str, request: dict[str, Any]) -> httpx2.Response:
        headers = await self._auth.headers()
        try:
            return await self._http.request(method, self._url + path, headers=headers, **request)
        except httpx2.HTTPError as error:
            raise ActuatorUnavailable(f"{method} {path.split('?', 1)[0]}: {connection_error_text(error)}") from None


# Actuators of servers that show their clients write nothing but differences, and read each write back.


ClientState = TypeVar("ClientState", bound=msgspec.Struct)
ClientRepresentation = Mapping[str, Any]
"""A client as the server shows it. May hold secrets: it is never stored or logged."""


class UnreadableOriginal(ActuatorError):
    """The stored original cannot be read: another version wrote it."""

    code = "bad_original"


class ClientActuator(ABC, Generic[ClientState]):
    """`Actuator` over what is lowered of a client's configuration (`ClientState`, a struct without secrets)."""

    def __init__(self, state: type[ClientState]) -> None:
        self._decoder = msgspec.json.Decoder(state)
        self._encode = msgspec.json.Encoder().encode

    async def capture(self, client_id: str) -> bytes:
        """Read the part of the client that may be lowered, as JSON."""
        return self._encode(self._extract_state(await self._read_client(client_id)))

    async def lower(self, client_id: str, original: bytes, desired: DesiredState) -> ActuationResult:
        """Writes what differs from *desired*, reads it back, then revokes tokens if required."""
        first = self._decode(original)
        client = await self._read_client(client_id)
        aim = self._compute_state(first, self._extract_state(client), desired)
        if not self._is_satisfied(self._extract_state(client), aim):
            await self._write_client(client, aim)
            client = await self._read_client(client_id)
            if not self._is_satisfied(self._extract_state(client), aim):
                raise ActuationNotConfirmed(f"client {client_id}: reading back does not show what was written")
        if desired.revoke:
            await self._revoke_tokens(client, desired)
        return ActuationResult(
            self._encode(self._restorable_state(first, self._extract_state(client), desired)), confirmed=True
        )

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Writes what differs from the original, and reads it back."""
        first = self._decode(original)
        client = await self._read_client(client_id)
        if self._extract_state(client) != first:
            await self._write_client(client, first)
            if self._extract_state(await self._read_client(client_id)) != first:
                raise ActuationNotConfirmed(f"client {client_id}: reading back does not show what was restored")
        return ActuationResult(original, confirmed=True)

    def _decode(self, original: bytes) -> ClientState:
        try:
            return self._decoder.decode(original)
        except msgspec.DecodeError as error:
            raise UnreadableOriginal(f"what the server had before can not be read: {error}") from None

    @abstractmethod
    async def _read_client(self, client_id: str) -> ClientRepresentation:
        """Read the client. Raises UnknownClient, ActuatorAccessDenied, ActuatorUnavailable."""

    @abstractmethod
    async def _write_client(self, client: ClientRepresentation, state: ClientState) -> None:
        """Give the client that state. Raises as `_read_client` does."""

    @abstractmethod
    async def _revoke_tokens(self, client: ClientRepresentation, desired: DesiredState) -> None:
        """Let tokens die that are out, until the server has said so. May be called again."""

    @abstractmethod
    def _extract_state(self, client: ClientRepresentation) -> ClientState:
        """The part of the client that is lowered."""

    @abstractmethod
    def _compute_state(self, first: ClientState, current: ClientState, desired: DesiredState) -> ClientState:
        """State that *desired* requires of a client that had *first* and has *current*; *current* if that suffices."""

    def _is_satisfied(self, current: ClientState, aim: ClientState) -> bool:
        """Returns whether *current* equals the requested state, even if written in another way."""
        return current == aim

    def _restorable_state(self, first: ClientState, now: ClientState, desired: DesiredState) -> ClientState:
        """State to restore once *desired* is brought about: *first*, but for what would bring dead tokens back."""
        del now, desired
        return first
