"""Our stream at a transmitter: found, made, changed and removed; whom we send credentials, and what we refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.signal_transmitter_settings import ManagedStreamSettings, SignalTransmitterSettings
from trustwatch.api.shared_signals import commands
from trustwatch.api.shared_signals.remote_stream import KeptStream, RemoteStream, StreamNotKept, metadata_url
from trustwatch.ingest.formats.received_signals import CAEP, RISC, WISE
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.authenticators import StaticTokenAuthenticator
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD
from typer.testing import CliRunner

ISSUER = "https://idp.example/realms/a"
BASE = "https://idp.example/ssf"
REVOKED = CAEP + "session-revoked"
SECRET = "the-secret-of-a-transmitter"


class Idp:
    """A transmitter in memory, as the specification has it but for what a test changes."""

    def __init__(self, **members: Any) -> None:
        self.metadata = {"issuer": ISSUER, "configuration_endpoint": BASE, "verification_endpoint": f"{BASE}/verify"}
        self.metadata |= members
        self.streams: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.at_most = 9
        self.keeps_descriptions = True
        self.poll_url = f"{BASE}/poll/1"
        self.answers: dict[str, httpx2.Response] = {}

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.path, body))
        if request.url.path == "/.well-known/ssf-configuration/realms/a":
            assert "authorization" not in request.headers
            return httpx2.Response(200, json=self.metadata)
        assert request.headers["authorization"] == "Bearer token"
        return self.answers.get(request.method) or self._manage(request, body)

    def _manage(self, request: httpx2.Request, body: Any) -> httpx2.Response:
        match request.method, request.url.path:
            case "POST", "/ssf/verify":
                return httpx2.Response(204)
            case "GET", _:
                return httpx2.Response(200, json=self.streams)
            case "POST", _ if len(self.streams) >= self.at_most:
                return httpx2.Response(409)
            case "POST", _:
                self.streams.append(self._told({"stream_id": f"s{len(self.streams)}", "aud": "us"}, body))
                return httpx2.Response(201, json=self.streams[-1])
            case "PATCH", _:
                at = [one["stream_id"] for one in self.streams].index(body["stream_id"])
                self.streams[at] = self._told(self.streams[at], body)
                return httpx2.Response(200, json=self.streams[at])
        self.streams = [one for one in self.streams if one["stream_id"] != request.url.params["stream_id"]]
        return httpx2.Response(204)

    def _told(self, stream: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        told = stream | body
        told["delivery"] = {name: value for name, value in body["delivery"].items() if name != "authorization_header"}
        if told["delivery"]["method"] == POLL_METHOD:
            told["delivery"]["endpoint_url"] = self.poll_url
        if not self.keeps_descriptions:
            told.pop("description")
        return told

    @property
    def methods(self) -> list[str]:
        """What was asked since the last look, but for the metadata."""
        asked = [method for method, path, _ in self.asked if "well-known" not in path]
        self.asked.clear()
        return asked


def settings(delivery: str = "poll", events: tuple[str, ...] = (REVOKED,), **more: Any) -> SignalTransmitterSettings:
    stream = ManagedStreamSettings(delivery=delivery, events=events)  # type: ignore[arg-type]
    given = {"audiences": ("us",), "tenants": ("acme",), "jwks_uri": f"{BASE}/jwks", "stream": stream}
    if delivery == "push":
        given["push_secret"] = Secret(SECRET)
    return SignalTransmitterSettings(name="idp", issuer=ISSUER, **(given | more))


def with_stream(idp: Idp, ask: Callable[[RemoteStream], Any], part: SignalTransmitterSettings | None = None) -> Any:
    """What comes of one call."""

    async def go() -> Any:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(idp.answer)) as http:
            stream = RemoteStream(part or settings(), "https://trust.example", http, StaticTokenAuthenticator("token"))
            return await ask(stream)

    return asyncio.run(go())


def keep(idp: Idp, part: SignalTransmitterSettings | None = None) -> KeptStream:
    kept: KeptStream = with_stream(idp, lambda stream: stream.keep(), part)
    return kept


def refusal(idp: Idp, part: SignalTransmitterSettings | None = None) -> str:
    with pytest.raises(StreamNotKept) as refused:
        keep(idp, part)
    return str(refused.value)


def test_made_once_then_changed_as_the_settings_are() -> None:
    """Made and verified; found again by its description; other event types change it; removed in the end."""
    idp = Idp()
    assert keep(idp) == KeptStream("s0", idp.poll_url, True)
    assert idp.asked[2][2] == {
        "delivery": {"method": POLL_METHOD},
        "events_requested": [REVOKED],
        "description": "trustwatch: idp",
    }
    assert idp.methods == ["GET", "POST", "POST"]
    assert keep(idp).stream_id == "s0"
    assert idp.methods == ["GET"]
    assert keep(idp, settings(events=(REVOKED, RISC + "account-disabled"))).stream_id == "s0"
    assert idp.methods == ["GET", "PATCH", "POST"]
    idp.streams.append({"stream_id": "of-others", "delivery": {"method": POLL_METHOD}, "description": "ours no"})
    assert with_stream(idp, lambda stream: stream.delete()) is True
    assert [one["stream_id"] for one in idp.streams] == ["of-others"]
    assert with_stream(idp, lambda stream: stream.delete()) is False


def test_by_push() -> None:
    """Where it reaches us, by our secret; given again at each start, since nobody tells the secret that was given."""
    idp = Idp()
    for methods in (["GET", "POST", "POST"], ["GET", "PATCH", "POST"]):
        assert keep(idp, settings("push")) == KeptStream("s0", "", True)
        told = next(body["delivery"] for _, _, body in idp.asked if body and "delivery" in body)
        assert told == {
            "method": PUSH_METHOD,
            "endpoint_url": "https://trust.example/ssf/receive/idp",
            "authorization_header": f"Bearer {SECRET}",
        }
        assert idp.methods == methods


def test_events_that_are_asked_for() -> None:
    """All that are believed of it, unless the settings name some."""
    idp = Idp()
    keep(idp, settings(events=()))
    asked = idp.streams[0]["events_requested"]
    assert {REVOKED, WISE + "workload-compromised", RISC + "account-disabled"} <= set(asked)
    narrow = Idp()
    part = SignalTransmitterSettings(
        name="idp",
        issuer=ISSUER,
        audiences=("us",),
        tenants=("acme",),
        jwks_uri=f"{BASE}/jwks",
        events=(CAEP + "*",),
        stream=ManagedStreamSettings(),
    )
    keep(narrow, part)
    assert all(event.startswith(CAEP) for event in narrow.streams[0]["events_requested"])


def test_a_transmitter_with_room_for_one() -> None:
    """As Keycloak: 409, and the only stream is ours where it keeps no descriptions; one of somebody else's is not."""
    idp = Idp()
    idp.at_most, idp.keeps_descriptions = 1, False
    assert keep(idp).stream_id == keep(idp, settings(events=(RISC + "account-disabled",))).stream_id == "s0"
    assert idp.streams[0]["events_requested"] == [RISC + "account-disabled"]
    idp.streams[0]["description"] = "of another receiver"
    assert refusal(idp).endswith("HTTP 409")


@pytest.mark.parametrize("shape", ["object", "404", "empty"])
def test_what_is_told_of_streams(shape: str) -> None:
    """A transmitter may tell its only stream by itself, and has several ways to say that there is none."""
    idp = Idp()
    keep(idp)
    answers = {
        "object": httpx2.Response(200, json=idp.streams[0]),
        "404": httpx2.Response(404, json={"error": "none"}),
        "empty": httpx2.Response(200, content=b""),
    }
    idp.answers["GET"] = answers[shape]
    keep(idp)
    assert len(idp.streams) == (1 if shape == "object" else 2)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"issuer": "https://other.example"}, "of another issuer"),
        ({"configuration_endpoint": "https://evil.example/ssf"}, "on another host"),
        ({"configuration_endpoint": "http://idp.example/ssf"}, "https URL"),
        ({"configuration_endpoint": "https://u:p@idp.example/ssf"}, "user or password"),
        ({"configuration_endpoint": 7}, "none of SSF 1.0"),
        ({"verification_endpoint": "https://idp.example:8443/verify"}, "on another host"),
    ],
    ids=["issuer", "host", "http", "user", "type", "port"],
)
def test_metadata_that_is_refused(members: dict[str, Any], why: str) -> None:
    """Before any credential leaves."""
    idp = Idp(**members)
    assert why in refusal(idp)
    assert [path for _, path, _ in idp.asked] == ["/.well-known/ssf-configuration/realms/a"]


def test_streams_that_are_refused() -> None:
    """Of another audience, polled elsewhere, delivered in another way, or no streams at all."""
    idp = Idp()
    idp.poll_url = "https://evil.example/poll"
    assert "on another host" in refusal(idp)
    assert "`audiences`" in refusal(Idp(), settings(audiences=("others",)))
    for given in ({"json": {"stream_id": 7}}, {"content": b"{"}, {"json": []}):
        wrong = Idp()
        wrong.answers["POST"] = httpx2.Response(201, **given)
        assert refusal(wrong) == "the transmitter's answer is none of SSF 1.0"
    huge, away = Idp(), Idp()
    huge.answers["POST"] = httpx2.Response(201, content=b"x" * 300_000)
    assert "more than" in refusal(huge)
    away.answers["GET"] = httpx2.Response(302, headers={"location": "https://evil.example"})
    assert refusal(away).endswith("HTTP 302")


def test_settings_of_streams() -> None:
    """What can not work is said when they are read."""
    with pytest.raises(ValueError, match="needs a `push_secret`"):
        settings("push", push_secret=None, poll_url="https://idp.example/poll")
    with pytest.raises(ValueError, match="leave it out"):
        settings(poll_url="https://idp.example/poll")
    with pytest.raises(ValueError, match="`metadata_url` must be an https URL"):
        ManagedStreamSettings(metadata_url="http://idp.example")
    with pytest.raises(ValueError, match="`issuer` of a transmitter"):
        SignalTransmitterSettings(
            name="idp",
            issuer="urn:idp",
            audiences=("us",),
            tenants=("acme",),
            jwks_uri=f"{BASE}/jwks",
            stream=ManagedStreamSettings(),
        )
    assert metadata_url("https://idp.example") == "https://idp.example/.well-known/ssf-configuration"


SETTINGS = """\
settings_version: 2
shared_signals:
  transmitters:
    - {name: idp, issuer: "https://idp.example/realms/a", audiences: [us], tenants: [acme],
       jwks_uri: "https://idp.example/ssf/jwks", stream: {}, auth: {bearer: {env: IDP_TOKEN}}}
    - {name: by-hand, issuer: "https://other.example", audiences: [us], tenants: [acme],
       jwks_uri: "https://other.example/jwks", poll_url: "https://other.example/poll"}
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`trustwatch signals` does what `serve` does at start, and the opposite."""
    idp, file = Idp(), tmp_path / "trustwatch.yaml"
    file.write_text(SETTINGS)
    monkeypatch.setenv("IDP_TOKEN", "token")
    monkeypatch.setattr(
        commands, "make_webhook_client", lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(idp.answer))
    )

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(make_app(), ["signals", *arguments, "--settings", str(file)])

    kept = run("keep", "idp", "--json")
    assert json.loads(kept.stdout) == {"stream_id": "s0", "poll_url": idp.poll_url, "changed": True}
    assert f"stream s0: polled at {idp.poll_url}" in run("keep", "idp").stderr
    assert "removed" in run("delete", "idp").stderr
    assert "no stream of ours" in run("delete", "idp").stderr
    for wrong in ("by-hand", "nobody"):
        refused = run("keep", wrong)
        assert refused.exit_code == 1
        assert f"have no '{wrong}' with a `stream`: idp" in str(refused.exception)
    idp.metadata["issuer"] = "https://evil.example"
    refused = run("keep", "idp")
    assert (refused.exit_code, "another issuer" in str(refused.exception)) == (1, True)
