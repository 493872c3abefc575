"""Management of streams: the pass conditions of the OpenID Foundation's SSF and CAEP transmitter test plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.ingest.formats.received_signals import VERIFICATION
from trustwatch.scoring.delivery.shared_signals.event_types import EVENTS_SUPPORTED, RISK_LEVEL_CHANGE, SESSION_REVOKED
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD

from ...support.shared_signals import announced

Transmit = Callable[..., Any]
BOT = {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}


# Metadata


@pytest.mark.parametrize("issuer", [None, "https://issuer.example", "https://issuer.example/tenants/one"])
def test_metadata(transmit: Transmit, issuer: str | None) -> None:
    """OpenIDSSFTransmitterMetadata: issuer exact, all URLs https, required members, no empty list; keys are there."""
    path = "/tenants/one" if issuer is not None and issuer.endswith("one") else ""
    transmitter = transmit(issuer)
    receiver = transmitter.receiver(path="/.well-known/ssf-configuration" + path)
    metadata = receiver.metadata

    assert metadata["issuer"] == (issuer or "https://trust.example")
    assert metadata["spec_version"] == "1_0"
    assert metadata["default_subjects"] == "ALL"
    assert metadata["authorization_schemes"] == [{"spec_urn": "urn:ietf:rfc:6749"}]
    assert metadata["delivery_methods_supported"] == [PUSH_METHOD, POLL_METHOD]
    urls = [value for name, value in metadata.items() if name.endswith(("_uri", "_endpoint"))]
    assert len(urls) == 6
    assert all(url.startswith("https://trust.example/") for url in urls)
    assert all(value for value in metadata.values())
    keys = transmitter.site.client.get(receiver.path("jwks_uri"))
    assert keys.headers["content-type"] == "application/json"
    assert [sorted(key) for key in keys.json()["keys"]] == [["alg", "e", "kid", "kty", "n", "use"]]


def test_metadata_stands_at_the_issuers_own_path_alone(transmit: Transmit) -> None:
    """The issuer must equal the URL that was used; the OIDC way of appending is no way."""
    client = transmit("https://issuer.example/one").site.client

    assert client.get("/.well-known/ssf-configuration/one").json()["issuer"] == "https://issuer.example/one"
    for path in ("", "/two", "/one/more"):
        assert client.get("/.well-known/ssf-configuration" + path).status_code == 404


def test_without_hosts_to_push_to_only_polls_are_offered(transmit: Transmit) -> None:
    """The receiver's URL would otherwise choose what this service calls."""
    receiver = transmit(push_hosts=()).receiver()
    asked = {"delivery": {"method": PUSH_METHOD, "endpoint_url": "https://inside.example/"}}

    assert receiver.metadata["delivery_methods_supported"] == [POLL_METHOD]
    assert receiver.ask("POST", "configuration_endpoint", asked).status_code == 400


def test_where_it_is_off_there_is_nothing(new_site: Callable[..., Any]) -> None:
    """404, with what to set."""
    site = new_site()
    answer = site.client.get("/.well-known/ssf-configuration")

    assert answer.status_code == 404
    assert "shared_signals.enabled" in answer.json()["detail"]
    assert site.client.get("/ssf/jwks.json").status_code == 404
    assert site.client.get("/ssf/stream", headers=site.auth("gateway", "ssf.read")).status_code == 404


# Streams


def test_happy_path(receiver: Any) -> None:
    """OpenIDSSFStreamControlHappyPath: created, read, updated, replaced, status read and set, deleted."""
    stream = receiver.create((SESSION_REVOKED, "urn:not:ours"), description="mine")
    stream_id = stream["stream_id"]
    assert stream["iss"] == receiver.metadata["issuer"]
    assert stream["aud"] == "gateway"
    assert stream["events_supported"] == list(EVENTS_SUPPORTED)
    assert stream["events_requested"] == [SESSION_REVOKED, "urn:not:ours"]
    assert stream["events_delivered"] == [SESSION_REVOKED]
    assert stream["delivery"]["endpoint_url"].endswith(stream_id)
    read = receiver.ask("GET", "configuration_endpoint", stream_id=stream_id)
    assert (read.status_code, read.json(), read.headers["cache-control"]) == (200, stream, "no-store")
    assert receiver.ask("GET", "configuration_endpoint").json() == [stream]

    changed = receiver.ask("PATCH", "configuration_endpoint", {"stream_id": stream_id, "description": "still mine"})
    assert (changed.status_code, changed.json()) == (200, stream | {"description": "still mine"})
    replaced = receiver.ask(
        "PUT", "configuration_endpoint", stream | {"events_requested": [RISK_LEVEL_CHANGE], "description": None}
    )
    assert replaced.status_code == 200
    assert replaced.json()["events_delivered"] == [RISK_LEVEL_CHANGE]
    assert "description" not in replaced.json()

    for status in ("paused", "disabled", "enabled"):
        said = receiver.ask("POST", "status_endpoint", {"stream_id": stream_id, "status": status, "reason": "so"})
        assert (said.status_code, said.json()) == (200, {"stream_id": stream_id, "status": status, "reason": "so"})
        assert receiver.ask("GET", "status_endpoint", stream_id=stream_id).json()["status"] == status

    gone = receiver.ask("DELETE", "configuration_endpoint", stream_id=stream_id)
    assert (gone.status_code, gone.content) == (204, b"")
    assert receiver.ask("GET", "configuration_endpoint").json() == []


def test_a_stream_without_words_is_polled_and_delivers_nothing(receiver: Any) -> None:
    """All members of a creation are optional; what nobody requested is not delivered."""
    answer = receiver.ask("POST", "configuration_endpoint", b"")

    assert answer.status_code == 201
    assert answer.json()["delivery"]["method"] == POLL_METHOD
    assert answer.json()["events_delivered"] == []


def test_broken_bodies(receiver: Any) -> None:
    """400, not 422: the test plans ask for it by `;{ broken`."""
    for method in ("POST", "PATCH", "PUT"):
        for body in (b";{ broken", b"[1]", b"\xff"):
            assert receiver.ask(method, "configuration_endpoint", body).status_code == 400


IMPOSSIBLE_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("configuration_endpoint", {"delivery": {"method": "urn:other"}}),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD}}),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD, "endpoint_url": "http://trust.example/"}}),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD, "endpoint_url": "https://10.0.0.1/"}}),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD, "endpoint_url": "https://u:p@127.0.0.1/"}}),
    (
        "configuration_endpoint",
        {
            "delivery": {
                "method": PUSH_METHOD,
                "endpoint_url": "https://127.0.0.1/",
                "authorization_header": "Bearer x\r\nhost: y",
            }
        },
    ),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD, "endpoint_url": "http://127.0.0.1:99999/"}}),
    ("configuration_endpoint", {"delivery": {"method": PUSH_METHOD, "endpoint_url": "http://127.0.0.1/\0"}}),
    ("configuration_endpoint", {"events_requested": "one"}),
    ("status_endpoint", {"status": "enabled"}),
    ("status_endpoint", {"stream_id": "{id}", "status": "asleep"}),
    ("add_subject_endpoint", {"stream_id": "{id}"}),
    ("add_subject_endpoint", {"stream_id": "{id}", "subject": {"format": "email"}}),
    ("remove_subject_endpoint", {"stream_id": "{id}", "subject": "bot"}),
    ("verification_endpoint", {"state": "s"}),
    ("verification_endpoint", {"stream_id": "{id}", "state": 7}),
]


def test_bodies_that_say_what_can_not_be(receiver: Any) -> None:
    """400 with a sentence."""
    stream_id = receiver.create()["stream_id"]
    for endpoint, body in IMPOSSIBLE_BODIES:
        sent = body | {"stream_id": stream_id} if body.get("stream_id") == "{id}" else body
        answer = receiver.ask("POST", endpoint, sent)
        assert answer.status_code == 400, (endpoint, body, answer.text)
        assert answer.json()["detail"]


def test_what_is_the_transmitters_to_say(receiver: Any) -> None:
    """400 where it differs; sent as it is, it is no harm."""
    stream = receiver.create()
    for method in ("PATCH", "PUT"):
        for said in (
            {"iss": "https://other.example"},
            {"aud": ["somebody"]},
            {"events_delivered": [VERIFICATION]},
            {"inactivity_timeout": 60},
            {"delivery": {"method": POLL_METHOD, "endpoint_url": "https://other.example/"}},
        ):
            assert receiver.ask(method, "configuration_endpoint", stream | said).status_code == 400, said
        assert receiver.ask(method, "configuration_endpoint", stream).json() == stream
        assert receiver.ask(method, "configuration_endpoint", stream | {"aud": [stream["aud"]]}).json() == stream
        assert receiver.ask(method, "configuration_endpoint", {"description": "which?"}).status_code == 400


def test_changes_at_the_same_time_undo_nothing(
    transmitter: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says nothing of the delivery leaves it as the other one made it, whichever read first."""
    stream = receiver.create()
    named, store = {"stream_id": stream["stream_id"]}, transmitter.site.store.security_events
    push = {"method": PUSH_METHOD, "endpoint_url": "http://127.0.0.1:1/new", "authorization_header": "Bearer new"}
    change, others = store.change_configuration, [True]

    def change_late(*arguments: Any) -> bool:
        if others:
            others.clear()
            assert receiver.ask("PATCH", "configuration_endpoint", named | {"delivery": push}).status_code == 200
        return bool(change(*arguments))

    monkeypatch.setattr(store, "change_configuration", change_late)
    answer = receiver.ask("PATCH", "configuration_endpoint", named | {"description": "mine"})
    assert (answer.status_code, answer.json()["delivery"]["endpoint_url"]) == (200, push["endpoint_url"])
    (kept,) = store.list_streams("gateway")
    assert (kept.description, transmitter.context.keys.unseal(kept.authorization)) == ("mine", "Bearer new")
    monkeypatch.setattr(store, "change_configuration", lambda *_: False)
    assert receiver.ask("PATCH", "configuration_endpoint", named | {"description": "x"}).status_code == 409


def requests_for(stream_id: str) -> list[tuple[str, str, Any, dict[str, str]]]:
    """Every request about one stream."""
    named, asked = {"stream_id": stream_id}, {"stream_id": stream_id}
    return [
        ("GET", "configuration_endpoint", None, asked),
        ("PATCH", "configuration_endpoint", named, {}),
        ("PUT", "configuration_endpoint", named, {}),
        ("DELETE", "configuration_endpoint", None, asked),
        ("GET", "status_endpoint", None, asked),
        ("POST", "status_endpoint", named | {"status": "paused"}, {}),
        ("POST", "add_subject_endpoint", named | {"subject": BOT}, {}),
        ("POST", "remove_subject_endpoint", named | {"subject": BOT}, {}),
        ("POST", "verification_endpoint", named, {}),
    ]


def test_unknown_streams_and_those_of_others(transmitter: Any, receiver: Any) -> None:
    """404 for both: a stream belongs to the client that made it, whatever its tenants are."""
    stream = receiver.create()
    for other in (transmitter.receiver("trusted"), transmitter.receiver("all")):
        for stream_id in (stream["stream_id"], "0" * 32, "x" * 256):
            for method, endpoint, body, params in requests_for(stream_id):
                answer = other.ask(method, endpoint, body, **params)
                assert answer.status_code == 404, (method, endpoint, answer.text)
        assert other.poll(stream).status_code == 404
        assert other.ask("GET", "configuration_endpoint").json() == []
    assert receiver.ask("GET", "configuration_endpoint").json() == [stream]
    assert receiver.ask("GET", "configuration_endpoint", stream_id="x" * 2_000).status_code == 404
    assert receiver.ask("DELETE", "configuration_endpoint").status_code == 400


def test_bad_tokens(transmitter: Any, receiver: Any) -> None:
    """401 everywhere, with a challenge (RFC 6750); a token in the query is none."""
    stream = receiver.create()
    for headers in ({"authorization": "Bearer no.to.ken"}, {}):
        receiver.headers = headers
        for method, endpoint, body, params in requests_for(stream["stream_id"]):
            answer = receiver.ask(method, endpoint, body, **params)
            assert answer.status_code == 401, (method, endpoint)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert receiver.ask("POST", "configuration_endpoint", {}).status_code == 401
        assert receiver.poll(stream).status_code == 401
    good = transmitter.site.token("gateway", "ssf.read")
    assert receiver.ask("GET", "configuration_endpoint", access_token=good).status_code == 401


def test_scopes(transmitter: Any, receiver: Any) -> None:
    """`ssf.read` reads, `ssf.manage` does everything, our other scopes nothing; a poller may be told no more."""
    stream = receiver.create()
    reader = transmitter.receiver("gateway", "ssf.read")
    poller = transmitter.receiver("gateway", "ssf.manage.poll")
    admin = transmitter.receiver("gateway", "trust.admin", "trust.score:read")
    for method, endpoint, body, params in requests_for(stream["stream_id"]):
        assert admin.ask(method, endpoint, body, **params).status_code == 403
        assert poller.ask(method, endpoint, body, **params).status_code == 403
        assert reader.ask(method, endpoint, body, **params).status_code == (200 if method == "GET" else 403)
    assert [one.poll(stream).status_code for one in (admin, reader, poller, receiver)] == [403, 403, 200, 200]
    refused = reader.ask("POST", "configuration_endpoint", {})
    assert refused.status_code == 403
    assert 'scope="ssf.manage"' in refused.headers["www-authenticate"]


def test_a_client_without_tenants_gets_no_stream(transmitter: Any) -> None:
    """It would hear of nobody."""
    assert transmitter.receiver("nobody").ask("POST", "configuration_endpoint", {}).status_code == 403


def test_so_many_streams_and_subjects(transmit: Transmit) -> None:
    """409 and 429 beyond what the operator allows; of another receiver nothing is counted."""
    transmitter = transmit(MAX_STREAMS=2, MAX_SUBJECTS=2)
    receiver, other = transmitter.receiver(), transmitter.receiver("trusted")
    stream, _ = receiver.create(), receiver.create()
    assert receiver.ask("POST", "configuration_endpoint", {}).status_code == 409
    other.create()

    def add(sub: str) -> int:
        body = {"stream_id": stream["stream_id"], "subject": BOT | {"sub": sub}}
        return int(receiver.ask("POST", "add_subject_endpoint", body).status_code)

    assert [add("a"), add("b"), add("c"), add("b")] == [200, 200, 429, 200]


def test_the_operator_chooses_the_audience(transmit: Transmit) -> None:
    """By the name of the caller."""
    transmitter = transmit(audiences={"gateway": "https://rp.example/caep"})
    receiver = transmitter.receiver()
    stream = receiver.create()
    transmitter.commit(announced())

    assert stream["aud"] == "https://rp.example/caep"
    assert receiver.sets(stream)[0]["aud"] == "https://rp.example/caep"


def test_long_texts_are_cut_off(receiver: Any) -> None:
    """As SSF 1.0 lets a transmitter do; no receiver has to know how long ours may be."""
    stream = receiver.create(description="d" * 5_000)
    body = {"stream_id": stream["stream_id"], "status": "paused", "reason": "r" * 5_000}

    assert stream["description"] == "d" * 1_024
    assert receiver.ask("POST", "status_endpoint", body).json()["reason"] == "r" * 1_024


# Subjects and verification


def test_subjects(transmitter: Any, receiver: Any) -> None:
    """OpenIDSSFSubjectControl: 200 and 204, empty; what is removed is not told of, until it is added again."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    body = {"stream_id": stream["stream_id"], "subject": BOT, "verified": True}
    removed = receiver.ask("POST", "remove_subject_endpoint", body)
    assert (removed.status_code, removed.content) == (204, b"")
    transmitter.commit(announced(1), announced(2, agent_id="other"))
    added = receiver.ask("POST", "add_subject_endpoint", body)
    assert (added.status_code, added.content) == (200, b"")
    transmitter.commit(announced(3))

    assert [claims["sub_id"]["sub"] for claims in receiver.sets(stream)] == ["other", "bot"]


@pytest.mark.parametrize("body", [{"state": "VGhpcyBpcyBh"}, {}])
def test_verification(receiver: Any, body: dict[str, str]) -> None:
    """204, then an event about the stream itself with the same state; also where no event was requested."""
    stream = receiver.create(())
    asked = receiver.ask("POST", "verification_endpoint", {"stream_id": stream["stream_id"], **body})
    assert (asked.status_code, asked.content) == (204, b"")
    (claims,) = receiver.sets(stream)

    assert claims["sub_id"] == {"format": "opaque", "id": stream["stream_id"]}
    assert claims["events"] == {VERIFICATION: body}


def test_no_secret_of_a_receiver_is_told_or_stored(transmitter: Any, receiver: Any) -> None:
    """The Authorization header goes out with pushes and nowhere else: no answer, no table, no file holds it."""
    stream = receiver.create_push("http://127.0.0.1:1/events", "Bearer sEcReT-of-the-receiver")
    folder = transmitter.site.settings.data_dir

    assert "authorization_header" not in stream["delivery"]
    assert "sEcReT" not in receiver.ask("GET", "configuration_endpoint").text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not any(b"sEcReT" in path.read_bytes() for path in files)


def test_a_receiver_keeps_its_header_until_it_says_otherwise(transmitter: Any, receiver: Any) -> None:
    """Sent back as it was read, it stays; to another address it never goes; replaced without, it is gone."""
    url = "http://127.0.0.1:1/events"

    def header_after(method: str, body: dict[str, Any]) -> str:
        answer = receiver.ask(method, "configuration_endpoint", body)
        assert answer.status_code == 200, answer.text
        (stream,) = transmitter.site.store.security_events.list_streams("gateway")
        return str(transmitter.context.keys.unseal(stream.authorization))

    stream = receiver.create_push(url, "Bearer one")
    named = {"stream_id": stream["stream_id"]}
    elsewhere = {"method": PUSH_METHOD, "endpoint_url": url + "/other"}

    assert header_after("PATCH", stream | {"description": "x"}) == "Bearer one"
    assert header_after("PATCH", named | {"delivery": elsewhere}) == ""
    assert header_after("PATCH", named | {"delivery": elsewhere | {"authorization_header": "Bearer two"}}) == (
        "Bearer two"
    )
    assert header_after("PUT", named | {"delivery": elsewhere}) == ""
    assert header_after("PUT", named) == ""
