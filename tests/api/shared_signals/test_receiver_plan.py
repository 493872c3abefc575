"""The receiver plans of the OpenID Foundation's conformance suite, played from what its modules wait for.

The suite itself was not run. `SuiteTransmitter` answers as its generated transmitter does (one stream, members checked,
`{issuer}/streams`, `/status`, `/verify`, `/events`), and a module ends when each operation was seen of the stream that
was created. A module that misses one waits until it times out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.settings.shared_signals_settings import ManagedStreamSettings, SignalTransmitterSettings
from trustwatch.api.shared_signals.remote_stream import RemoteStream
from trustwatch.api.shared_signals.transmitter_context import VerificationStates
from trustwatch.ingest.formats.received_signals import CAEP, RISC
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.records.security_events import POLL_METHOD

ISSUER = "https://suite.example/test/a/trustwatch"
RECEIVER_MEMBERS = {"events_requested", "delivery", "description"}
TRANSMITTER_MEMBERS = {"iss", "aud", "events_supported", "events_delivered", "min_verification_interval"}
SUPPORTED = [CAEP + "session-revoked", CAEP + "credential-change", RISC + "account-disabled"]


class SuiteTransmitter:
    """The transmitter that a receiver module of the suite generates."""

    def __init__(self, *, interop: bool = False) -> None:
        self.interop = interop
        self.stream: dict[str, Any] | None = None
        self.status = "enabled"
        self.seen: dict[str, str] = {}
        self.made = 0

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path, json.loads(request.content) if request.content else {}
        if path == "/.well-known/ssf-configuration/test/a/trustwatch":
            names = ("configuration", "streams"), ("status", "status"), ("verification", "verify")
            endpoints = {f"{name}_endpoint": f"{ISSUER}/{path}" for name, path in names}
            return httpx2.Response(200, json={"issuer": ISSUER, "spec_version": "1_0", **endpoints})
        if request.headers.get("authorization") != "Bearer token":
            return httpx2.Response(401)
        operations: dict[str, Callable[[httpx2.Request, dict[str, Any]], httpx2.Response]] = {
            "streams": getattr(self, f"_{request.method.lower()}_stream"),
            "status": self._status,
            "verify": self._verify,
        }
        return operations[path.rpartition("/")[2]](request, body)

    def _see(self, operation: str, stream_id: str) -> None:
        self.seen[operation] = stream_id

    def _get_stream(self, request: httpx2.Request, _: dict[str, Any]) -> httpx2.Response:
        named = request.url.params.get("stream_id")
        if named is None:
            return httpx2.Response(200, json=[self.stream] if self.stream else [])
        if self.stream is None or self.stream["stream_id"] != named:
            return httpx2.Response(404)
        self._see("read", named)
        return httpx2.Response(200, json=self.stream)

    def _post_stream(self, _: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        if self.stream is not None:
            return httpx2.Response(409)
        if body.keys() - RECEIVER_MEMBERS:
            return httpx2.Response(400)
        self.made += 1
        self.stream = {"stream_id": f"stream_{self.made}", "iss": ISSUER, "aud": "us", "events_supported": SUPPORTED}
        self._set(body)
        self._see("created", self.stream["stream_id"])
        return httpx2.Response(201, json=self.stream)

    def _patch_stream(self, _: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        return self._changed("updated", body)

    def _put_stream(self, _: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        return self._changed("replaced", body)

    def _changed(self, operation: str, body: dict[str, Any]) -> httpx2.Response:
        if self.interop:
            return httpx2.Response(405)
        if self.stream is None or body.get("stream_id") != self.stream["stream_id"]:
            return httpx2.Response(404)
        if any(self.stream.get(name) != body[name] for name in TRANSMITTER_MEMBERS & body.keys()):
            return httpx2.Response(400)
        if operation == "replaced" and not body.keys() >= RECEIVER_MEMBERS:
            return httpx2.Response(400)
        self._set({name: value for name, value in body.items() if name in RECEIVER_MEMBERS})
        self._see(operation, body["stream_id"])
        return httpx2.Response(200, json=self.stream)

    def _set(self, members: dict[str, Any]) -> None:
        assert self.stream is not None
        self.stream |= members
        self.stream["events_delivered"] = [one for one in SUPPORTED if one in self.stream["events_requested"]]
        delivery = {name: value for name, value in self.stream["delivery"].items() if name != "authorization_header"}
        if delivery["method"] == POLL_METHOD:
            delivery["endpoint_url"] = f"{ISSUER}/events?stream_id={self.stream['stream_id']}"
        self.stream["delivery"] = delivery

    def _delete_stream(self, request: httpx2.Request, _: dict[str, Any]) -> httpx2.Response:
        named = request.url.params.get("stream_id")
        if self.stream is None or self.stream["stream_id"] != named:
            return httpx2.Response(404)
        self.stream = None
        self._see("deleted", named)
        return httpx2.Response(204)

    def _status(self, request: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        named = body.get("stream_id") or request.url.params.get("stream_id")
        if self.stream is None or self.stream["stream_id"] != named:
            return httpx2.Response(404)
        self.status = body.get("status", self.status)
        self._see("status set" if body else "status read", named)
        return httpx2.Response(200, json={"stream_id": named, "status": self.status})

    def _verify(self, _: httpx2.Request, body: dict[str, Any]) -> httpx2.Response:
        if self.stream is None or self.stream["stream_id"] != body.get("stream_id"):
            return httpx2.Response(404)
        self._see("verification asked", body["stream_id"])
        return httpx2.Response(204)

    def has_finished(self, *operations: str) -> bool:
        """True if each operation was seen of the stream that was created."""
        created = self.seen.get("created")
        return created is not None and all(self.seen.get(operation) == created for operation in operations)


def settings(delivery: str, events: tuple[str, ...]) -> SignalTransmitterSettings:
    secret = {"push_secret": Secret("a-secret-of-the-push")} if delivery == "push" else {}
    stream = ManagedStreamSettings(delivery=delivery, events=events)  # type: ignore[arg-type]
    return SignalTransmitterSettings(
        name="suite",
        issuer=ISSUER,
        audiences=("us",),
        tenants=("acme",),
        jwks_uri=f"{ISSUER}/jwks",
        stream=stream,
        **secret,
    )


class Operator:
    """Does what `trustwatch signals` does, each time in a process of its own that remembers nothing."""

    def __init__(self, suite: SuiteTransmitter, delivery: str, folder: Path) -> None:
        self._suite, self._delivery = suite, delivery
        self._states = VerificationStates(folder, lambda: 1_764_000_000.0)

    def run(self, ask: Callable[[RemoteStream], Awaitable[Any]], events: tuple[str, ...] = tuple(SUPPORTED[:1])) -> Any:
        async def go() -> Any:
            async with httpx2.AsyncClient(transport=httpx2.MockTransport(self._suite.answer)) as http:
                part, authenticator = settings(self._delivery, events), RequestAuthenticator("token")
                return await ask(RemoteStream(part, "https://trust.example", http, authenticator, self._states))

        return asyncio.run(go())


DELIVERIES = pytest.mark.parametrize("delivery", ["poll", "push"])


@DELIVERIES
def test_receiver_happy_path(delivery: str, tmp_path: Path) -> None:
    """`openid-ssf-receiver-happypath`: create, read by its id, update, replace, delete."""
    suite = SuiteTransmitter()
    operator = Operator(suite, delivery, tmp_path)

    operator.run(RemoteStream.keep)
    assert suite.has_finished("read"), "created and not read by its id: the module waits for ever"
    for operation, ask in (
        ("updated", RemoteStream.keep),
        ("replaced", lambda stream: stream.keep(replace=True)),
    ):
        suite.seen.pop("read")
        operator.run(ask, tuple(SUPPORTED[:2]))
        assert suite.has_finished("read", operation)
    operator.run(RemoteStream.delete)

    assert suite.has_finished("read", "updated", "replaced", "deleted") and suite.made == 1


@DELIVERIES
def test_receiver_status_update(delivery: str, tmp_path: Path) -> None:
    """`openid-ssf-receiver-stream-status-update`: create, set the status, delete."""
    suite = SuiteTransmitter()
    operator = Operator(suite, delivery, tmp_path)
    for ask in (RemoteStream.keep, lambda stream: stream.set_status("paused"), RemoteStream.delete):
        operator.run(ask)
    assert suite.has_finished("status set", "deleted")


@DELIVERIES
def test_receiver_caep_interop(delivery: str, tmp_path: Path) -> None:
    """`openid-ssf-receiver-stream-caep-interop`, the stream: create, read, read the status, verify, delete."""
    suite = SuiteTransmitter(interop=True)
    operator = Operator(suite, delivery, tmp_path)
    operator.run(RemoteStream.keep)
    assert suite.has_finished("read", "status read", "verification asked")
    operator.run(RemoteStream.delete)
    assert suite.has_finished("deleted")
