"""Actuators of servers that show and take a client's configuration: read, compare, write, read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from .base import ActuatorError, Brought, NotConfirmed
from .desired import Desired

State = TypeVar("State", bound=msgspec.Struct)
Client = Mapping[str, Any]
"""A client as the server shows it. May hold secrets: it is never stored or logged."""


class BadOriginal(ActuatorError):
    """What was kept can not be read: written by another version."""

    code = "bad_original"


class ClientActuator(ABC, Generic[State]):
    """`Actuator` over the part of a client's configuration that is lowered (`State`, a struct without secrets)."""

    def __init__(self, state: type[State]) -> None:
        self._decoder = msgspec.json.Decoder(state)
        self._encode = msgspec.json.Encoder().encode

    async def capture(self, client_id: str) -> bytes:
        """That part, as JSON."""
        return self._encode(self._state(await self._read(client_id)))

    async def lower(self, client_id: str, original: bytes, wish: Desired) -> Brought:
        """Write what is not as wished, read it back, then let tokens die where they are to."""
        first = self._decode(original)
        client = await self._read(client_id)
        aim = self._aim(first, self._state(client), wish)
        if not self._reached(self._state(client), aim):
            await self._write(client, aim)
            client = await self._read(client_id)
            if not self._reached(self._state(client), aim):
                raise NotConfirmed(f"client {client_id}: reading back does not show what was written")
        if wish.revoke:
            await self._kill_tokens(client, wish)
        return Brought(self._encode(self._never_again(first, self._state(client), wish)), confirmed=True)

    async def restore(self, client_id: str, original: bytes) -> Brought:
        """Write what is not as it was, and read it back."""
        first = self._decode(original)
        client = await self._read(client_id)
        if self._state(client) != first:
            await self._write(client, first)
            if self._state(await self._read(client_id)) != first:
                raise NotConfirmed(f"client {client_id}: reading back does not show what was restored")
        return Brought(original, confirmed=True)

    def _decode(self, original: bytes) -> State:
        try:
            return self._decoder.decode(original)
        except msgspec.DecodeError as error:
            raise BadOriginal(f"what the server had before can not be read: {error}") from None

    @abstractmethod
    async def _read(self, client_id: str) -> Client:
        """The client. Raises UnknownClient, Refused, NotReached."""

    @abstractmethod
    async def _write(self, client: Client, state: State) -> None:
        """Give the client that state. Raises as `_read` does."""

    @abstractmethod
    async def _kill_tokens(self, client: Client, wish: Desired) -> None:
        """Let tokens die that are out, until the server has said so. May be called again."""

    @abstractmethod
    def _state(self, client: Client) -> State:
        """The part of the client that is lowered."""

    @abstractmethod
    def _aim(self, first: State, found: State, wish: Desired) -> State:
        """The state that *wish* asks of a client that had *first* and has *found*; *found* where that will do."""

    def _reached(self, found: State, aim: State) -> bool:
        """Whether *found* is what is asked for, though it may be written in another way."""
        return found == aim

    def _never_again(self, first: State, now: State, wish: Desired) -> State:
        """What has to be restored once *wish* is brought about: *first*, but for what would bring dead tokens back."""
        del now, wish
        return first
