"""Our stream at a transmitter: found, made, changed and removed; whom we send credentials, and what we refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import msgspec
import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.settings.shared_signals_settings import ManagedStreamSettings, SignalTransmitterSettings
from trustwatch.api.shared_signals import commands
from trustwatch.api.shared_signals.remote_stream import KeptStream, RemoteStream, TransmitterError, metadata_url
from trustwatch.api.shared_signals.transmitter_context import VerificationStates
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.received_signals import CAEP, RISC, VERIFICATION, WISE
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD

ISSUER = "https://idp.example/realms/a"
BASE = "https://idp.example/ssf"
REVOKED = CAEP + "session-revoked"
SECRET = "the-secret-of-a-transmitter"


class Idp:
    """A transmitter in memory, as the specification has it but for what a test changes."""

    folder: ClassVar[Path]

    def __init__(self, **members: Any) -> None:
        self.metadata = {"issuer": ISSUER, "configuration_endpoint": BASE, "verification_endpoint": f"{BASE}/verify"}
        self.metadata |= members
        self.states = VerificationStates(self.folder, lambda: 1_764_000_000.0)
        self.status = {"stream_id": "s0", "status": "enabled"}
        self.subjects: list[Any] = []
        self.verification = httpx2.Response(204)
        self.description_chars = 1_000
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
                return self.verification
            case "POST", "/ssf/status":
                self.status = dict(body)
                return httpx2.Response(200, json=self.status)
            case "GET", "/ssf/status":
                return httpx2.Response(200, json=self.status)
            case "POST", "/ssf/add" | "/ssf/remove":
                self.subjects.append((request.url.path, body))
                return httpx2.Response(200 if request.url.path.endswith("add") else 204)
            case "GET", _ if "stream_id" in request.url.params:
                named = [one for one in self.streams if one["stream_id"] == request.url.params["stream_id"]]
                return httpx2.Response(200, json=named[0]) if named else httpx2.Response(404)
            case "GET", _:
                return httpx2.Response(200, json=self.streams)
            case "POST", _ if len(self.streams) >= self.at_most:
                return httpx2.Response(409)
            case "POST", _:
                self.streams.append(self._told({"stream_id": f"s{len(self.streams)}", "aud": "us"}, body))
                return httpx2.Response(201, json=self.streams[-1])
            case (("PATCH" | "PUT"), _):
                at = [one["stream_id"] for one in self.streams].index(body["stream_id"])
                self.streams[at] = self._told(self.streams[at], body)
                return httpx2.Response(200, json=self.streams[at])
        self.streams = [one for one in self.streams if one["stream_id"] != request.url.params["stream_id"]]
        return httpx2.Response(204)

    def _told(self, stream: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        told = stream | body
        given = body.get("delivery", stream.get("delivery", {}))
        told["delivery"] = {name: value for name, value in given.items() if name != "authorization_header"}
        if told["delivery"]["method"] == POLL_METHOD:
            told["delivery"]["endpoint_url"] = self.poll_url
        told["description"] = told["description"][: self.description_chars]
        if not self.keeps_descriptions:
            told.pop("description")
        return told

    @property
    def methods(self) -> list[str]:
        """What was asked since the last look, but for the metadata."""
        asked = [method for method, path, _ in self.asked if "well-known" not in path]
        self.asked.clear()
        return asked


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the keys of our side are."""
    monkeypatch.setattr(Idp, "folder", tmp_path / "keys", raising=False)


def settings(delivery: str = "poll", events: tuple[str, ...] = (REVOKED,), **more: Any) -> SignalTransmitterSettings:
    stream = ManagedStreamSettings(delivery=delivery, events=events)  # type: ignore[arg-type]
    given = {"audiences": ("us",), "tenants": ("acme",), "jwks_uri": f"{BASE}/jwks", "stream": stream}
    if delivery == "push":
        given["push_secret"] = Secret(SECRET)
    return SignalTransmitterSettings(**({"name": "idp", "issuer": ISSUER} | given | more))


def with_stream(idp: Idp, ask: Callable[[RemoteStream], Any], part: SignalTransmitterSettings | None = None) -> Any:
    """What comes of one call."""

    async def go() -> Any:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(idp.answer)) as http:
            authenticator = RequestAuthenticator("token")
            return await ask(RemoteStream(part or settings(), "https://trust.example", http, authenticator, idp.states))

    return asyncio.run(go())


def keep(idp: Idp, part: SignalTransmitterSettings | None = None) -> KeptStream:
    kept: KeptStream = with_stream(idp, lambda stream: stream.keep(), part)
    return kept


def refusal(idp: Idp, part: SignalTransmitterSettings | None = None) -> str:
    with pytest.raises(TransmitterError) as refused:
        keep(idp, part)
    return str(refused.value)


def test_made_once_then_changed_as_the_settings_are() -> None:
    """Made and verified; found again by its description; other event types change it; removed in the end."""
    idp = Idp()
    assert keep(idp)[:3] == ("s0", idp.poll_url, True)
    assert idp.asked[2][2] == {
        "delivery": {"method": POLL_METHOD},
        "events_requested": [REVOKED],
        "description": "trustwatch f1d9ef0e (idp)",
    }
    assert idp.methods == ["GET", "POST", "GET", "POST"]
    assert keep(idp).stream_id == "s0"
    assert idp.methods == ["GET"]
    assert keep(idp, settings(events=(REVOKED, RISC + "account-disabled"))).stream_id == "s0"
    assert idp.methods == ["GET", "PATCH", "GET", "POST"]
    idp.streams.append({"stream_id": "of-others", "delivery": {"method": POLL_METHOD}, "description": "ours no"})
    assert with_stream(idp, lambda stream: stream.delete()) is True
    assert [one["stream_id"] for one in idp.streams] == ["of-others"]
    assert with_stream(idp, lambda stream: stream.delete()) is False


def test_by_push() -> None:
    """Where it reaches us, by our secret; given again at each start, since nobody tells the secret that was given."""
    idp = Idp()
    for methods in (["GET", "POST", "GET", "POST"], ["GET", "PATCH", "GET", "POST"]):
        assert keep(idp, settings("push"))[:3] == ("s0", "", True)
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
    keep(narrow, msgspec.structs.replace(settings(events=()), events=(CAEP + "*",)))
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


EVERYTHING = {
    "status_endpoint": f"{BASE}/status",
    "add_subject_endpoint": f"{BASE}/add",
    "remove_subject_endpoint": f"{BASE}/remove",
}
BOT = {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}


def test_status_and_subjects() -> None:
    """Of a stream that is there, where the transmitter offers it; `test_the_command` does all of it."""
    idp = Idp(**EVERYTHING)
    with pytest.raises(TransmitterError, match="`trustwatch signals keep` makes it"):
        with_stream(idp, lambda stream: stream.status())
    asks: dict[str, Callable[[RemoteStream], Any]] = {
        "status_endpoint": RemoteStream.status,
        "add_subject_endpoint": lambda stream: stream.set_subject(BOT, wanted=True),
        "remove_subject_endpoint": lambda stream: stream.set_subject(BOT, wanted=False),
    }
    for member, ask in asks.items():
        poor = Idp(**{name: url for name, url in EVERYTHING.items() if name != member})
        keep(poor)
        with pytest.raises(TransmitterError, match=f"no {member}"):
            with_stream(poor, ask)


def test_a_stream_that_the_transmitter_stopped_is_enabled() -> None:
    """As after an outage of ours; one that somebody here has paused stays so."""
    idp = Idp(**EVERYTHING)
    idp.status = {"stream_id": "s0", "status": "paused", "reason": "the receiver takes nothing"}
    assert keep(idp).status == idp.status["status"] == "enabled"
    with_stream(idp, lambda stream: stream.set_status("paused"))
    assert keep(idp).status == idp.status["status"] == "paused"
    idp.answers["GET"] = httpx2.Response(200, json=idp.streams)  # of the status, too: no such answer ends a stream
    assert keep(idp).status == ""


def test_replaced_at_will() -> None:
    """PUT has everything that a receiver says; it is verified then."""
    idp = Idp()
    keep(idp)
    idp.methods  # noqa: B018 - forgets what was asked
    assert with_stream(idp, lambda stream: stream.keep(replace=True)).changed
    assert idp.methods == ["GET", "PUT", "GET", "POST"]


def test_verifications_that_are_refused() -> None:
    """The stream is there all the same, and kept; whoever asks for one is told."""
    for status in (400, 404, 429, 500):
        idp = Idp()
        idp.verification = httpx2.Response(status)
        assert keep(idp) == KeptStream("s0", idp.poll_url, True)
        with pytest.raises(TransmitterError, match=f"HTTP {status}"):
            with_stream(idp, lambda stream: stream.verify())


def kept_again(idp: Idp, part: SignalTransmitterSettings, times: int = 3) -> list[str]:
    """What one process says that keeps its stream again and again."""
    said: list[str] = []

    async def go(stream: RemoteStream) -> None:
        for _ in range(times):
            try:
                said.append((await stream.keep()).stream_id)
            except TransmitterError as refused:
                said.append(str(refused))

    with_stream(idp, go, part)
    return said


def test_one_process_makes_one_stream() -> None:
    """Whatever its transmitter does with descriptions, and whatever is wrong with what it made."""
    nameless = Idp()
    nameless.keeps_descriptions = False
    assert kept_again(nameless, settings()) == ["s0"] * 3
    foreign = Idp()
    foreign.keeps_descriptions = False
    assert all("`audiences`" in said for said in kept_again(foreign, settings(audiences=("others",))))
    broken = Idp()
    broken.answers["POST"] = httpx2.Response(201, content=b"made")
    first, *others = kept_again(broken, settings())
    assert first == "the transmitter's answer is none of SSF 1.0"
    assert all("look there" in said for said in others)
    assert [len(idp.streams) for idp in (nameless, foreign)] == [1, 1]
    assert [method for method, path, _ in broken.asked if path == "/ssf"].count("POST") == 1
    gone = Idp()

    async def go(stream: RemoteStream) -> list[str]:
        first = (await stream.keep()).stream_id
        gone.streams = [{"stream_id": "of-others", "delivery": {"method": POLL_METHOD}}]
        return [first, (await stream.keep()).stream_id]

    assert with_stream(gone, go) == ["s0", "s1"]


def test_descriptions_that_are_lost_or_cut() -> None:
    """Cut, ours is known by its beginning; lost, a push by its address; of a single one that says nothing, by that."""
    idp = Idp()
    idp.description_chars = 21
    assert keep(idp).stream_id == keep(idp).stream_id == "s0"
    pushed = Idp()
    pushed.keeps_descriptions = False
    assert keep(pushed, settings("push")).stream_id == keep(pushed, settings("push")).stream_id == "s0"
    assert with_stream(pushed, lambda stream: stream.delete(), settings("push"))
    only = Idp()
    only.description_chars, only.at_most = 8, 1
    assert keep(only).stream_id == keep(only).stream_id == "s0"


def test_two_deployments_with_one_client_take_a_stream_each() -> None:
    """By the URL of each: neither changes or takes what is the other's."""
    idp = Idp()

    async def go(url: str) -> str:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(idp.answer)) as http:
            stream = RemoteStream(settings(), url, http, RequestAuthenticator("token"), idp.states)
            return (await stream.keep()).stream_id

    ids = [asyncio.run(go(url)) for url in ("https://a.example", "https://b.example", "https://a.example")]
    assert ids == ["s0", "s1", "s0"]


def test_what_others_keep_there_is_no_harm() -> None:
    """Streams of any shape; one host spelt in another way; an answer without a body; null for what is not there."""
    idp = Idp(configuration_endpoint="https://IDP.example:443/ssf")
    idp.streams = [{"stream_id": 7}, {"stream_id": "x", "aud": None, "delivery": None}, {"stream_id": "y"}]
    assert keep(idp).stream_id == "s3"
    idp.streams[-1]["events_requested"] = None
    idp.answers["PATCH"] = httpx2.Response(202)
    assert keep(idp).stream_id == "s3"


def test_a_stream_of_another_issuer_is_not_used() -> None:
    """SSF 1.0, 8.1.1.1: neither verified nor asked for its status, made now or before."""
    idp = Idp(**EVERYTHING)
    made = {"stream_id": "s0", "iss": "https://other.example", "aud": "us", "delivery": {"method": POLL_METHOD}}
    idp.answers["POST"] = httpx2.Response(201, json=made | {"delivery": made["delivery"] | {"endpoint_url": BASE}})
    assert "another one than `issuer`" in refusal(idp)
    assert idp.methods == ["GET", "POST"]
    right = Idp(**EVERYTHING)
    keep(right)
    assert right.streams[0].setdefault("iss", ISSUER) == ISSUER
    assert keep(right).stream_id == "s0"
    right.streams[0]["iss"] = ISSUER + "/other"
    assert "another one than `issuer`" in refusal(right)


def test_settings_of_streams() -> None:
    """What can not work is said when they are read."""
    with pytest.raises(ValueError, match="needs a `push_secret`"):
        settings("push", push_secret=None, poll_url="https://idp.example/poll")
    with pytest.raises(ValueError, match="remove it"):
        settings(poll_url="https://idp.example/poll")
    nothing = msgspec.structs.replace(settings(events=()), events=("urn:none*",))
    with pytest.raises(ConfigError, match="name none that is believed"):
        keep(Idp(), nothing)
    with pytest.raises(ValueError, match="`metadata_url` must be an https URL"):
        ManagedStreamSettings(metadata_url="http://idp.example")
    with pytest.raises(ValueError, match="`issuer` of a transmitter"):
        settings(issuer="urn:idp")
    assert metadata_url("https://idp.example") == "https://idp.example/.well-known/ssf-configuration"


SETTINGS = """\
settings_version: 2
data_dir: DATA
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
    file.write_text(SETTINGS.replace("DATA", str(tmp_path / "data")))
    monkeypatch.setenv("IDP_TOKEN", "token")
    monkeypatch.setattr(
        commands, "make_webhook_client", lambda _: httpx2.AsyncClient(transport=httpx2.MockTransport(idp.answer))
    )

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(make_app(), ["signals", *arguments, "--settings", str(file)])

    kept = run("keep", "idp", "--json")
    assert json.loads(kept.stdout) == {"stream_id": "s0", "poll_url": idp.poll_url, "changed": True}
    assert f"stream s0: polled at {idp.poll_url}" in run("keep", "idp").stderr
    idp.metadata |= EVERYTHING
    assert "enabled" in run("status", "idp").stderr
    assert "paused: trustwatch signals: moving" in run("status", "idp", "--set", "paused", "--reason", "moving").stderr
    told = json.loads(run("status", "idp", "--json").stdout)
    assert told == {"stream_id": "s0", "status": "paused", "reason": "trustwatch signals: moving"}
    for wrong in (
        ("status", "idp", "--reason", "moving"),
        ("status", "idp", "--replace"),
        ("keep", "idp", "--set", "paused"),
        ("keep", "idp", json.dumps(BOT)),
        ("add-subject", "idp"),
    ):
        assert run(*wrong).exit_code == 2
    assert "signal_stream_verified" in run("verify", "idp").stderr
    asked = next(body for _, path, body in reversed(idp.asked) if path == "/ssf/verify")
    states = VerificationStates(tmp_path / "data" / "shared-signals", lambda: 1_764_000_000.0)
    verification = {"events": {VERIFICATION: {"state": asked["state"]}}, "sub_id": {"format": "opaque", "id": "s0"}}
    states.check(verification, "idp", 60.0)
    assert "added" in run("add-subject", "idp", json.dumps(BOT)).stderr
    assert "removed" in run("remove-subject", "idp", json.dumps(BOT)).stderr
    named = {"stream_id": "s0", "subject": BOT}
    assert idp.subjects == [("/ssf/add", named), ("/ssf/remove", named)]
    for text in ("{", "7", '{"format": "email"}'):
        refused = run("add-subject", "idp", text)
        assert (refused.exit_code, "expected JSON such as" in refused.output.replace("\n", " ")) == (2, True)
    assert "stream s0" in run("keep", "idp", "--replace").stderr
    assert "removed" in run("delete", "idp").stderr
    assert "we have no stream there" in run("delete", "idp").stderr
    for name in ("by-hand", "nobody"):
        refused = run("keep", name)
        assert refused.exit_code == 1
        assert f"have no '{name}' with a `stream`: idp" in str(refused.exception)
    idp.metadata["issuer"] = "https://evil.example"
    refused = run("keep", "idp")
    assert (refused.exit_code, "another issuer" in str(refused.exception)) == (1, True)
