"""Our own transmitter to our own receiver over loopback, by push and by poll: two services, as two products."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.settings.shared_signals_settings import (
    EncryptionSettings,
    ManagedStreamSettings,
    SharedSignalsSettings,
    SignalTransmitterSettings,
)
from trustwatch.api.shared_signals import signal_poller
from trustwatch.api.shared_signals import slice as slice_module
from trustwatch.api.shared_signals.remote_stream import RemoteStream
from trustwatch.api.shared_signals.signal_receiver import SignalReceiver
from trustwatch.api.shared_signals.transmitter_context import VerificationStates, key_folder
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorAuthSettings
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.delivery.shared_signals.event_types import EVENTS_SUPPORTED, WORKLOAD_COMPROMISED
from trustwatch.scoring.records.security_events import POLL_METHOD

from ...support.shared_signals import SetReceiver, announced

ISSUER = "https://trust.example"
SECRET = "the-secret-of-a-transmitter"
BOT = {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}
Until = Callable[[Callable[[], Any]], Any]
EXPECTED = {
    "risk-level-change": "signal.evidence",
    "session-revoked": "signal.evidence",
    "anomalous-behavior-detected": "signal.evidence",
    "workload-compromised": "signal.hard",
}
"""What a rise to critical says, and what the other side believes of it."""


@pytest.fixture
def transmitter(request: pytest.FixtureRequest, transmit: Callable[..., Any], tmp_path: Path) -> Any:
    """One that encrypts for `gateway`, by a JWKS that is not there yet, where a test asks for it."""
    keys = EncryptionSettings(jwks_file=tmp_path / "receiver-jwks.json")
    return transmit(POLL_WAIT_S=1.0, encryption={"gateway": keys} if hasattr(request, "param") else {})


@pytest.fixture
def receive(transmitter: Any, tmp_path: Path, database: Path) -> Iterator[Callable[..., Any]]:
    """Another service, which takes the SETs of the first; what is given is of its entry for the transmitter."""
    made: list[Any] = []

    def make(**given: Any) -> Any:
        folder = tmp_path / "receiver"
        folder.mkdir()
        copy = folder / "trustwatch.db"
        shutil.copyfile(database, copy)
        entry = SignalTransmitterSettings(
            name="trust",
            issuer=ISSUER,
            audiences=("gateway",),
            tenants=("acme",),
            issuers=("https://as.example",),
            jwks_uri=f"{transmitter.site.url}/ssf/jwks.json",
            **given,
        )
        made.append(type(transmitter.site)(folder, copy, shared_signals=SharedSignalsSettings(transmitters=(entry,))))
        return made[-1]

    yield make
    for site in made:
        site.close()


def outcomes(site: Any) -> Counter[str]:
    receiver: SignalReceiver = site.app.app.state.services.get(SignalReceiver)
    return Counter({outcome: count for (_, outcome), count in receiver.outcomes.items() if count})


def told(site: Any) -> dict[str, str]:
    """Types of the events that were written, by action; all are about the agent of the decision."""
    events = site.events()
    assert {(event["agent"]["id"], event["tenant"]) for event in events} <= {("bot", "acme")}
    return {event["action"]: event["type"] for event in events}


def test_by_push_while_the_other_side_can_not_keep_anything(
    transmitter: Any, receive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not durable is not acknowledged: it comes again, and counts once."""
    site = receive(push_secret=Secret(SECRET))
    transmitter.receiver().create_push(f"{site.url}/ssf/receive/trust", f"Bearer {SECRET}")

    async def refuse(_: object) -> None:
        raise Unavailable("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(site.log, "commit", refuse)
        transmitter.commit(announced())
    assert (site.events(), transmitter.context.outcomes["retry"]) == ([], 1)
    transmitter.site.clock.now += 600
    transmitter.step()
    assert told(site) == EXPECTED
    assert len(site.events()) == 4
    assert outcomes(site) == {"evidence": 3, "hard": 1}
    (kept,) = transmitter.site.store.security_events.list_all_streams()
    assert transmitter.site.store.security_events.waiting(kept, 10) == []


def test_by_poll(transmitter: Any, receive: Callable[..., Any], until: Until) -> None:
    """Polled in the background, acknowledged by the next poll once the log has them."""
    stream = transmitter.receiver().create()
    bearer = transmitter.site.token("gateway", "ssf.manage.poll")
    path = stream["delivery"]["endpoint_url"].removeprefix(ISSUER)
    transmitter.commit(announced())
    site = receive(poll_url=f"{transmitter.site.url}{path}", auth=ActuatorAuthSettings(bearer=Secret(bearer)))
    (kept,) = transmitter.site.store.security_events.list_all_streams()
    until(lambda: not transmitter.site.store.security_events.waiting(kept, 10))

    assert told(site) == EXPECTED
    assert transmitter.context.outcomes == {"queued": 4, "acknowledged": 4}
    assert outcomes(site) == {"evidence": 3, "hard": 1}
    transmitter.commit(announced(2, level=1, before=4, revokes=False))
    until(lambda: len(site.events()) == 5)
    assert site.events()[-1]["type"] == "signal.note"


class Rerouted(httpx2.AsyncHTTPTransport):
    """The way to `https://trust.example`, which is the transmitter's port on loopback."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == "trust.example"
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


@pytest.fixture
def rerouted(transmitter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's requests reach the transmitter by its public name."""
    port = transmitter.site.socket.getsockname()[1]
    monkeypatch.setattr(slice_module, "make_webhook_client", lambda _: httpx2.AsyncClient(transport=Rerouted(port)))


@pytest.mark.usefixtures("rerouted")
def test_a_stream_that_is_made_at_start_and_polled(transmitter: Any, receive: Callable[..., Any], until: Until) -> None:
    """Found by the issuer alone, verified; what comes by it is taken."""
    auth = ActuatorAuthSettings(bearer=Secret(transmitter.site.token("gateway", "ssf.manage")))
    events = tuple(EVENTS_SUPPORTED)
    site = receive(stream=ManagedStreamSettings(events=events), auth=auth)
    (kept,) = until(transmitter.site.store.security_events.list_all_streams)
    assert (kept.description[:11] + kept.description[19:], kept.method) == ("trustwatch  (trust)", POLL_METHOD)
    assert set(kept.events_requested) == set(EVENTS_SUPPORTED)
    until(lambda: outcomes(site)["verified"])
    assert outcomes(site)["invalid_state"] == 0
    transmitter.site.clock.now += 1
    transmitter.commit(announced())
    until(lambda: not transmitter.site.store.security_events.waiting(kept, 10))
    assert told(site) == EXPECTED


@pytest.mark.usefixtures("rerouted")
def test_a_stream_that_is_made_at_start_and_pushed(
    transmitter: Any,
    receive: Callable[..., Any],
    receiver_of_pushes: SetReceiver,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the address of the settings, with our secret; a verification that does not come back here is told of."""
    monkeypatch.setattr(signal_poller, "VERIFIED_WITHIN_S", 0.05)
    auth = ActuatorAuthSettings(bearer=Secret(transmitter.site.token("gateway", "ssf.manage")))
    stream = ManagedStreamSettings(delivery="push", receive_url=receiver_of_pushes.url)
    receive(stream=stream, auth=auth, push_secret=Secret(SECRET))
    until(transmitter.site.store.security_events.list_all_streams)
    until(lambda: transmitter.context.outcomes["queued"])
    transmitter.step()
    ((headers, token),) = receiver_of_pushes.got
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert token.count(".") == 2
    said: list[str] = []
    until(lambda: said.append(capsys.readouterr().out) or "signal_stream_unverified" in "".join(said))


def managed(transmitter: Any, site: Any, ask: Callable[[RemoteStream], Any]) -> Any:
    """What comes of one request for the receiver's stream, as by `trustwatch signals`, over the wire."""
    settings = site.settings

    async def go() -> Any:
        port = transmitter.site.socket.getsockname()[1]
        async with httpx2.AsyncClient(transport=Rerouted(port)) as http:
            (entry,) = settings.shared_signals.transmitters
            bearer = RequestAuthenticator(transmitter.site.token("gateway", "ssf.manage"))
            states = VerificationStates(key_folder(settings), site.clock)
            return await ask(RemoteStream(entry, settings.listen.url(), http, bearer, states))

    return asyncio.run(go())


@pytest.mark.usefixtures("rerouted")
def test_a_stream_is_managed_from_afar(transmitter: Any, receive: Callable[..., Any], until: Until) -> None:
    """Verified again, paused, without one agent and with it, replaced: each does there what it says."""
    auth = ActuatorAuthSettings(bearer=Secret(transmitter.site.token("gateway", "ssf.manage")))
    stream = ManagedStreamSettings(events=(WORKLOAD_COMPROMISED,))
    site = receive(stream=stream, auth=auth)
    until(lambda: outcomes(site)["verified"])
    managed(transmitter, site, lambda one: one.verify())
    until(lambda: outcomes(site)["verified"] == 2)

    assert managed(transmitter, site, lambda one: one.set_status("paused", "moving")).status == "paused"
    (kept,) = transmitter.site.store.security_events.list_all_streams()
    assert (kept.status, kept.status_reason) == ("paused", "trustwatch signals: moving")
    assert managed(transmitter, site, lambda one: one.keep()).status == "paused"
    managed(transmitter, site, lambda one: one.set_subject(BOT, wanted=False))
    assert managed(transmitter, site, lambda one: one.set_status("enabled")).status == "enabled"
    transmitter.site.clock.now += 1
    transmitter.commit(announced(1))
    managed(transmitter, site, lambda one: one.set_subject(BOT, wanted=True))
    transmitter.commit(announced(2))
    until(site.events)
    assert [event["txn"] for event in site.events()] == ["d-2"]
    assert managed(transmitter, site, lambda one: one.keep(replace=True)).changed
    assert managed(transmitter, site, lambda one: one.delete())
    assert transmitter.site.store.security_events.list_all_streams() == []


@pytest.mark.usefixtures("rerouted")
def test_a_stream_that_goes_away_is_made_again(
    transmitter: Any, receive: Callable[..., Any], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted by somebody there while it is polled: 404, and it is kept as at start."""
    monkeypatch.setattr(signal_poller, "KEEP_AGAIN_S", 0.05)
    auth = ActuatorAuthSettings(bearer=Secret(transmitter.site.token("gateway", "ssf.manage")))
    site = receive(stream=ManagedStreamSettings(events=(WORKLOAD_COMPROMISED,)), auth=auth)
    until(lambda: outcomes(site)["verified"])
    store = transmitter.site.store.security_events
    (first,) = store.list_all_streams()
    assert store.delete_stream("gateway", first.stream_id)
    until(lambda: outcomes(site)["verified"] == 2)
    (second,) = store.list_all_streams()
    assert second.stream_id != first.stream_id


def kept_by(*sites: Any) -> bytes:
    """All that services have in files: store, log of events, keys."""
    return b"".join(path.read_bytes() for one in sites for path in one.settings.data_dir.rglob("*") if path.is_file())


@pytest.mark.usefixtures("rerouted")
@pytest.mark.parametrize("delivery", ["push", "poll"])
def test_no_secret_of_a_stream_survives(
    delivery: Any,
    transmitter: Any,
    receive: Callable[..., Any],
    receiver_of_pushes: SetReceiver,
    until: Until,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither our token, nor the secret of pushes, nor a SET stands in a store, a log or a SET, on either side."""
    bearer = transmitter.site.token("gateway", "ssf.manage")
    stream = ManagedStreamSettings(delivery=delivery, receive_url=receiver_of_pushes.url)
    auth = ActuatorAuthSettings(bearer=Secret(bearer))
    site = receive(stream=stream, auth=auth, push_secret=Secret(SECRET))
    until(lambda: transmitter.context.outcomes["queued"])
    transmitter.commit(announced())
    until(lambda: site.events() if delivery == "poll" else len(receiver_of_pushes.got) > 1)
    managed(transmitter, site, lambda one: one.keep(replace=True))
    everything = kept_by(transmitter.site, site) + capsys.readouterr().out.encode()
    everything += b"".join(base64.urlsafe_b64decode(token.split(".")[1] + "==") for token in receiver_of_pushes.tokens)
    assert b"signal_stream_kept" in everything
    head = transmitter.context.keys.sign({}).partition(".")[0]  # that of each of its SETs
    assert all(token.startswith(head) for token in receiver_of_pushes.tokens)
    for secret in (bearer.rpartition(".")[2], SECRET, head):
        assert secret.encode() not in everything


@pytest.mark.parametrize("transmitter", ["encrypting"], indirect=True)
@pytest.mark.parametrize("delivery", ["push", "poll"])
def test_encrypted_to_the_key_that_the_other_side_publishes(
    delivery: str, transmitter: Any, receive: Callable[..., Any], until: Until
) -> None:
    """Our encrypting side to our decrypting side, by what that one publishes; what is in clear would not be taken."""
    receiver = transmitter.receiver()
    given: dict[str, Any] = {"push_secret": Secret(SECRET)}
    if delivery == "poll":
        path = receiver.create()["delivery"]["endpoint_url"].removeprefix(ISSUER)
        bearer = Secret(transmitter.site.token("gateway", "ssf.manage.poll"))
        given = {"poll_url": f"{transmitter.site.url}{path}", "auth": ActuatorAuthSettings(bearer=bearer)}
    site = receive(encrypted="require", **given)
    if delivery == "push":
        receiver.create_push(f"{site.url}/ssf/receive/trust", f"Bearer {SECRET}")
    transmitter.commit(announced())
    assert site.events() == []  # its key is not known there yet: nothing leaves
    published = site.client.get("/ssf/receiver-jwks.json")
    encryption = transmitter.context.encryption
    keys = encryption._cache._issuers["gateway"]
    keys.settings.jwks_file.write_bytes(published.content)
    transmitter.site.wait(encryption._cache._refresh(keys))
    transmitter.site.clock.now += 600
    transmitter.step()

    until(lambda: outcomes(site) == {"evidence": 3, "hard": 1})  # counted once they are durable
    assert told(site) == EXPECTED
