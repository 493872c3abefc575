"""Events of Keycloak in all their forms."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from trustwatch.ingest.columns import OWN_DENIALS
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ...support.format_samples import ADMIN, AT, LINES, LOGIN, OLD, QUOTED, Taken, one, taken

TOKEN_ID = "sha256:" + hashlib.sha256(b"trrtcc:7efd").hexdigest()
LOGGED_IN = {
    "time": "2026-11-25T12:37:11.555000Z",
    "agent": {"id": "app-1"},
    "type": "token.request",
    "action": "token.request",
    "scopes": {"granted": ["email", "profile"]},
    "outcome": "success",
    "client": {"ip": "10.42.0.14"},
    "credential": {"method": "private_key_jwt", "token_id": TOKEN_ID},
    "attributes": {"realm": "r-1", "grant_type": "client_credentials", "event": "CLIENT_LOGIN", "key_id": "k1"},
}


def user(**changes: Any) -> dict[str, Any]:
    """The login with other members; `details` are added to its own."""
    details = {**LOGIN["details"], **changes.pop("details", {})}  # type: ignore[dict-item]
    return {**LOGIN, "details": details, **changes}


def test_an_event_of_a_client() -> None:
    """Nothing but what is named passes; the token's id only as a hash; its own account is no principal."""
    (event,), _, _ = taken("keycloak", LOGIN)

    assert event.pop("id") == "05e40b6c"
    assert event == LOGGED_IN


@pytest.mark.parametrize(
    "value",
    [
        AT + QUOTED,
        AT + OLD,
        "2026-11-25T13:37:11.555+01:00 DEBUG [org.keycloak.events] (default task-1) " + QUOTED,
        json.dumps(
            {
                "timestamp": "2026-11-25T12:37:11.555384Z",
                "loggerName": "org.keycloak.events",
                "level": "DEBUG",
                "message": QUOTED,
            }
        ),
        json.dumps({"@timestamp": "2026-11-25T12:37:11.555Z", "log.logger": "org.keycloak.events", "message": QUOTED}),
        json.dumps({"log": AT + QUOTED + "\n", "stream": "stdout", "time": "2026-11-25T12:37:12Z"}),
        json.dumps({"date": 1795610231.555, "log": QUOTED}),
        json.dumps([{**LOGIN, "id": None}]),
    ],
)
def test_every_form_gives_the_same_event(value: str) -> None:
    """Quoted and old lines: bare, in Keycloak's JSON log, in a log shipper's record; and the array of the REST API."""
    event = one("keycloak", value)

    event["attributes"]["realm"] = "r-1"
    assert event == LOGGED_IN


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CLIENT_LOGIN", "token.request"),
        ("CODE_TO_TOKEN", "token.request"),
        ("REFRESH_TOKEN", "token.refresh"),
        ("TOKEN_EXCHANGE", "token.exchange"),
        ("INTROSPECT_TOKEN", "token.introspect"),
        ("REVOKE_GRANT", "token.revoke"),
        ("CLIENT_REGISTER", "client.register"),
        ("CLIENT_UPDATE", "client.change"),
        ("CLIENT_DELETE", "client.change"),
    ],
)
def test_types(kind: str, expected: str) -> None:
    """Failures are of the same type as what failed."""
    assert one("keycloak", user(type=kind))["type"] == expected
    assert one("keycloak", user(type=f"{kind}_ERROR", error="invalid_request"))["type"] == expected


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("invalid_client_credentials", "denied"),
        ("access_denied", "denied"),
        ("invalid_token", "denied"),
        ("not_allowed", "denied"),
        ("invalid_request", "error"),
        ("brand_new_error", "error"),
        (None, "error"),
    ],
)
def test_outcome_is_by_the_error(error: str | None, outcome: str) -> None:
    """Refusals are denials, everything else is a fault; a failure without a reason is one too."""
    event = one("keycloak", user(type="REFRESH_TOKEN_ERROR", error=error))

    assert (event["outcome"], event["error"]) == (outcome, error or "unknown_error")
    assert event["scopes"] == {"requested": ["email", "profile"]}


def test_a_client_that_did_not_authenticate_is_only_claimed() -> None:
    """Anybody may try a secret for any client: it may raise that agent's risk, and never lower any."""
    event = one("keycloak", user(type="CLIENT_LOGIN_ERROR", error="invalid_client_credentials"))

    assert event["agent"] == {"id": "app-1", "self_asserted": True}


@pytest.mark.parametrize("error", ["client_disabled", "user_disabled"])
def test_refusals_of_what_we_disabled_are_ours(error: str) -> None:
    """A contained client does nothing by trying; what the server said stays to be read."""
    event = one("keycloak", user(type="CLIENT_LOGIN_ERROR", error=error))

    assert event["outcome"] == "denied" and event["error"] in OWN_DENIALS and event["attributes"]["error"] == error


def test_a_disabled_person_is_none_of_our_doing() -> None:
    """The actuators disable clients and their own accounts, nobody else."""
    person = user(type="REFRESH_TOKEN_ERROR", error="user_disabled", details={"username": "ann"})

    assert one("keycloak", person)["error"] == "user_disabled"


@pytest.mark.parametrize("error", ["invalid_token", "client_disabled", "user_disabled", "token_expired"])
def test_whoever_asks_about_a_dead_token_did_nothing_wrong(error: str) -> None:
    """That a token is dead is an answer: who asked is neither denied nor at fault, and does not hold the token."""
    asked = user(type="INTROSPECT_TOKEN_ERROR", error=error, clientId="rs", details={"token_issued_for": "app-1"})

    event = one("keycloak", asked)

    assert event["agent"] == {"id": "rs"} and event["outcome"] == "success" and "error" not in event
    assert "principal" not in event and event["credential"] == {"method": "private_key_jwt"}
    assert event["attributes"]["error"] == error and event["attributes"]["issued_for"] == "app-1"


def test_an_exchange_says_who_delegated() -> None:
    """The client that the token was issued for comes behind the one that acts now; audiences in one order."""
    details = {"subject_token_client_id": "boss", "audience": "b a", "username": "ann"}

    event = one("keycloak", user(type="TOKEN_EXCHANGE", details=details))

    assert event["delegation"] == ["app-1", "boss"] and event["principal"] == {"id": "u-1"}
    assert event["resource"] == {"audience": "a b"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("client-secret", "client_secret_basic"),
        ("client-secret-jwt", "client_secret_jwt"),
        ("client-x509", "tls_client_auth"),
        ("client-jwt", "private_key_jwt"),
    ],
)
def test_methods_have_their_registered_names(method: str, expected: str) -> None:
    """RFC 7591, so that a step down is seen."""
    assert one("keycloak", user(details={"client_auth_method": method}))["credential"]["method"] == expected


def test_an_event_of_an_administrator() -> None:
    """What was sent to the server stays outside: it holds secrets."""
    (event,), _, _ = taken("keycloak", ADMIN)

    assert event == {
        "id": "a-1",
        "time": "2026-11-25T12:37:11.630000Z",
        "agent": {"id": "788ea4dc"},
        "principal": {"id": "u-9"},
        "type": "admin",
        "action": "UPDATE CLIENT",
        "effect": "write",
        "resource": {"type": "CLIENT", "id": "clients/c-1"},
        "outcome": "success",
        "client": {"ip": "10.0.0.1"},
        "attributes": {"realm": "r-1"},
    }


@pytest.mark.parametrize("when", ["type", "authDetails.clientId == 'agent'"])
def test_settings_may_leave_administrators_out(when: str) -> None:
    """The condition holds for both kinds of events, and lets nothing in that is nothing of an agent."""
    assert taken("keycloak", ADMIN, MappingSpec(when=when)) == Taken([], 1, [])
    assert taken("keycloak", user(type="LOGIN"), MappingSpec(when="type")) == Taken([], 1, [])


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-25 12:37:06,700 INFO  [io.quarkus] (main) Keycloak 26.7.3 started",
        "2026-11-25 12:37:06,700 WARN  [org.keycloak.services] (t) refused " + QUOTED,
        "\tat org.keycloak.events.Whatever(Whatever.java:12)",
        json.dumps({"timestamp": "2026-11-25T12:37:11Z", "loggerName": "org.keycloak.services", "message": QUOTED}),
    ],
)
def test_other_lines_of_the_log_are_skipped(line: str) -> None:
    """Also those that quote an event: another logger may repeat what a stranger sent."""
    assert taken("keycloak", line) == Taken([], 1, [])


def test_a_value_can_not_pose_as_another_place() -> None:
    """Fixed places come first, and the first counts."""
    line = QUOTED.replace('scope="email profile"', 'scope="x\\", clientId=\\"victim", clientId="victim", error="e"')

    event = one("keycloak", AT + line)

    assert event["agent"] == {"id": "app-1"} and event["outcome"] == "error"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (QUOTED, "names no time"),
        ('{"type": "CLIENT_LOGIN", "realmId"', "not a JSON object"),
        ('{"hello": 1}', "neither an event of Keycloak"),
        ({**LOGIN, "time": "soon"}, "`time`: must be a number"),
        ({**LOGIN, "time": None}, "`time`: has no value"),
        ({**LOGIN, "clientId": {"a": 1}}, "`agent.id`: must be text"),
        (AT + QUOTED + ", x=" + "y" * 70_000, "limit is"),
    ],
)
def test_what_can_not_be_read_is_refused_with_a_reason(value: object, words: str) -> None:
    """It becomes a dead letter; nothing is lost."""
    events, skipped, (reason,) = taken("keycloak", value)

    assert (events, skipped) == ([], 0) and words in reason


@pytest.mark.parametrize(
    ("name", "events", "skipped"),
    [
        ("keycloak_26.7.3.log", 18, 2),
        ("keycloak_26.7.3.jsonl", 4, 2),
        ("keycloak_26.7.3_events.json", 6, 1),
        ("keycloak_26.7.3_admin_events.json", 3, 0),
    ],
)
def test_what_a_running_server_wrote(name: str, events: int, skipped: int) -> None:
    """Everything of it is an event or skipped on purpose."""
    found = taken("keycloak", (LINES / name).read_bytes())

    assert (len(found.events), found.skipped, found.refusals) == (events, skipped, [])
    assert "secret" not in json.dumps(found.events)
