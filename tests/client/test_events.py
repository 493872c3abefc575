"""Events: equal to the service's schema, ids that last, and no secrets or bodies in them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest import columns
from trustwatch.ingest import events as theirs
from trustwatch_client import AuditEvent, ContentRefused, fingerprint
from trustwatch_client import events as ours
from trustwatch_client.events import encode_event

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJib3QifQ.c2lnbmF0dXJl"


def event(**members: Any) -> AuditEvent:
    return AuditEvent(
        **{
            "time": NOW,
            "agent": ours.EventAgent(id="bot"),
            "type": "tool.call",
            "action": "pay",
            "outcome": "success",
            **members,
        }
    )


def test_the_marks_of_our_own_doing_are_the_services() -> None:
    assert ours.DENIED_BY_TRUST in columns.OWN_DENIALS
    assert ours.TRUST_UNAVAILABLE in columns.OWN_OUTAGES


def test_the_service_reads_what_is_encoded() -> None:
    full = event(
        tenant="acme",
        principal=ours.EventPrincipal(id="jo", type="user"),
        delegation=["bot", "boss"],
        effect="write",
        resource=ours.EventResource(type="account", id="acct-42"),
        scopes=ours.EventScopes(granted=["a:write"]),
        status=200,
        bytes_in=5,
        duration_ms=1.5,
        client=ours.EventClient(ip="198.51.100.7"),
        credential=ours.EventCredential(token_id=fingerprint("jti")),
        session="s",
        attributes={"region": "eu", "retries": 2},
    )

    name, raw = encode_event(full, "urn:gateway:1")
    read = theirs.decode_event(raw)

    assert (read.id, read.source, read.agent.id, read.delegation) == (name, "urn:gateway:1", "bot", ["bot", "boss"])
    assert msgspec.to_builtins(read)["attributes"] == {"region": "eu", "retries": 2}
    assert b"null" not in raw


SECRETS = [
    JWT,
    f"see {JWT} there",
    "Bearer abcdefghijklmnopqrstuvwx",
    "Basic dXNlcjpwYXNzd29yZDEyMw==",
    "-----BEGIN EC PRIVATE KEY-----",
    "https://api.example/x?access_token=abc",
    "https://api.example/x?a=1&client_secret=abc",
    "https://user:password@api.example/",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "members",
    [
        lambda s: {"action": s},
        lambda s: {"resource": ours.EventResource(id=s)},
        lambda s: {"session": s},
        lambda s: {"delegation": ["bot", s]},
        lambda s: {"scopes": ours.EventScopes(granted=[s])},
        lambda s: {"credential": ours.EventCredential(token_id=s)},
        lambda s: {"attributes": {"a": {"b": s}}},
        lambda s: {"attributes": {"a": ["x", s]}},
    ],
)
def test_secrets_are_refused_wherever_they_are(members: Any, secret: str) -> None:
    with pytest.raises(ContentRefused) as raised:
        encode_event(event(**members(secret)))

    assert secret not in str(raised.value)
    assert raised.value.path.startswith("$.")


@pytest.mark.parametrize(
    "attributes",
    [
        {"authorization": "x"},
        {"request.headers": {"a": "b"}},
        {"arguments": {"amount": 1}},
        {"prompt": "pay him"},
        {"body": "hello"},
        {"message": "hello"},
        {"api_key": "k"},
        {"note": "x" * 513},
        {"a": {"b": {"c": {"d": 1}}}},
        {f"n{number}": 1 for number in range(65)},
        {"list": list(range(65))},
    ],
)
def test_bodies_are_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ContentRefused):
        encode_event(event(attributes=attributes))


@pytest.mark.parametrize(
    "members",
    [
        {"action": "POST /tokens/{id}"},
        {"resource": ours.EventResource(id="https://api.example/token?page=2")},
        {"agent": ours.EventAgent(id="spiffe://acme.example/ns/bots/sa/basic")},
        {"action": "bearer bonds"},
        {"attributes": {"input_tokens": 812, "content_length": 10, "model": "m-4", "message_id": "m1", "tokens": 3}},
        {"credential": ours.EventCredential(method="private_key_jwt", token_id=fingerprint(JWT))},
    ],
)
def test_what_only_sounds_like_it_is_taken(members: dict[str, Any]) -> None:
    assert encode_event(event(**members))[0]


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_any_short_name_is_either_read_by_the_service_or_refused(name: str) -> None:
    try:
        _, raw = encode_event(event(action=name, session=name))
    except ContentRefused:
        return

    assert theirs.decode_event(raw).action == name


@pytest.mark.parametrize(
    "members",
    [
        {"time": NOW.replace(tzinfo=None)},
        {"time": "2026-11-25T12:00:00Z"},
        {"type": "party"},
        {"action": ""},
        {"outcome": "maybe"},
        {"bytes_in": -1.0},
        {"agent": ours.EventAgent(id="")},
        {"session": "x" * 2049},
        {"status": "ok"},
        {"attributes": {"x": object()}},
    ],
)
def test_what_is_no_event_is_refused_here(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refused"):
        encode_event(event(**members))
