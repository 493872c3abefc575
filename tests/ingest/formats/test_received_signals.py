"""Signals of others as audit events: a case for each row of the table, subjects, and what an event keeps."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.received_signals import (
    CAEP,
    RISC,
    RISK_CLAIM,
    SIGNAL_RULES,
    SSF,
    WISE,
    SignalRule,
    SignalSubject,
    build_signal_event,
    find_signal_rule,
    read_signal_subjects,
)
from trustwatch.scoring.policy.access_evaluation import LEVEL_CLAIM

from ...support.checkout import ROOT
from ...support.format_samples import LOGIN, one

AS = "https://as.example"
NOW_S = 1_764_000_000.0
AGENT = {"format": "iss_sub", "iss": AS, "sub": "bot"}

CASES: list[tuple[str, dict[str, Any], str | None]] = [
    (CAEP + "session-revoked", {"initiating_entity": "user"}, "note"),
    (CAEP + "session-revoked", {"initiating_entity": "policy"}, "evidence"),
    (CAEP + "credential-change", {"change_type": "revoke", "credential_type": "x509"}, "evidence"),
    (CAEP + "credential-change", {"change_type": "create", "credential_type": "x509"}, "note"),
    (CAEP + "token-claims-change", {"claims": {RISK_CLAIM: "high"}}, "note"),
    (CAEP + "token-claims-change", {"claims": {"role": "admin", RISK_CLAIM: "high"}}, "change"),
    (CAEP + "assurance-level-change", {"change_direction": "decrease"}, "evidence"),
    (CAEP + "assurance-level-change", {"change_direction": "increase"}, "note"),
    (CAEP + "device-compliance-change", {"current_status": "not-compliant"}, "evidence"),
    (CAEP + "device-compliance-change", {"current_status": "compliant"}, "note"),
    (CAEP + "risk-level-change", {"current_level": "HIGH", "principal": "USER"}, "evidence"),
    (CAEP + "risk-level-change", {"current_level": "LOW", "principal": "USER"}, "note"),
    (CAEP + "session-established", {}, "note"),
    (CAEP + "session-presented", {}, "note"),
    (RISC + "credential-compromise", {"credential_type": "password"}, "hard"),
    (RISC + "account-disabled", {"reason": "hijacking"}, "hard"),
    (RISC + "account-disabled", {"reason": "bulk-account"}, "evidence"),
    (RISC + "account-credential-change-required", {}, "evidence"),
    (RISC + "sessions-revoked", {}, "evidence"),
    (RISC + "account-enabled", {}, "note"),
    (RISC + "account-purged", {}, "note"),
    (WISE + "workload-compromised", {"detection_method": "runtime"}, "hard"),
    (WISE + "anomalous-behavior-detected", {"severity": "low"}, "note"),
    (WISE + "anomalous-behavior-detected", {"severity": "critical"}, "evidence"),
    (WISE + "credential-compromise", {"credential_type": "wit"}, "hard"),
    (WISE + "credential-revoked", {"credential_type": "wic", "reason": "key_compromise"}, "hard"),
    (WISE + "credential-revoked", {"credential_type": "wic", "reason": "policy_violation"}, "evidence"),
    (WISE + "credential-revoked", {"credential_type": "wic", "reason": "superseded"}, "note"),
    (WISE + "credential-issued", {"credential_type": "wic"}, "note"),
    (WISE + "credential-rotated", {"credential_type": "wic"}, "note"),
    (WISE + "credential-renewal-failure", {"failure_reason": "posture_evaluation_failed"}, "evidence"),
    (WISE + "credential-renewal-failure", {"failure_reason": "internal_error"}, "note"),
    (WISE + "workload-disabled", {"reason": "compromise"}, "hard"),
    (WISE + "workload-disabled", {"reason": "policy_violation"}, "evidence"),
    (WISE + "workload-disabled", {"reason": "maintenance"}, "note"),
    (WISE + "workload-enabled", {}, "note"),
    (WISE + "workload-purged", {}, "note"),
    (WISE + "workload-baseline-changed", {"reason": "image_update"}, "change"),
    (WISE + "workload-provenance-changed", {"change_type": "verification_failed"}, "evidence"),
    (WISE + "workload-provenance-changed", {"change_type": "updated"}, "change"),
    (WISE + "workload-vulnerability-status-changed", {"status": "affected", "severity": "critical"}, "note"),
    (WISE + "posture-evaluation-failed", {"evaluation_type": "runtime"}, "evidence"),
    (WISE + "posture-evaluation-succeeded", {}, "note"),
    *((WISE + name, {}, None) for name in ("trust-anchor-added", "trust-anchor-rotated", "trust-anchor-revoked")),
    *((WISE + f"trust-domain-federation-{end}", {}, None) for end in ("established", "updated", "revoked")),
    *((WISE + f"{kind}-policy-changed", {}, None) for kind in ("issuance", "posture-evaluation", "validation")),
    (SSF + "verification", {"state": "x"}, None),
    (SSF + "stream-updated", {"status": "paused"}, None),
]


def test_every_row_has_a_case() -> None:
    """In the order of the table, each row once: a new one is not without a test, and no row hides another."""
    assert [find_signal_rule(event_type, members) for event_type, members, _ in CASES] == list(SIGNAL_RULES)


@pytest.mark.parametrize(
    ("event_type", "members", "treatment"), CASES, ids=[f"{case[0].rpartition('/')[2]}-{case[2]}" for case in CASES]
)
def test_what_each_event_is_believed_to_be(event_type: str, members: dict[str, Any], treatment: str | None) -> None:
    """As the row says; an event that is about an agent becomes an audit event of that type and name."""
    rule = find_signal_rule(event_type, members)
    assert rule is not None
    assert rule.treatment == treatment
    if rule.treatment is not None:
        made = event_of(rule, members)
        assert (made["type"], made["action"]) == (f"signal.{treatment}", event_type.rpartition("/")[2])


def test_the_page_of_standards_has_the_table() -> None:
    """A row for each event, with its conditions in their order; what is always treated alike is listed below."""
    page = " ".join((ROOT / "reference" / "standards.md").read_text().split())
    treatments: dict[str, list[str]] = {}
    for rule in SIGNAL_RULES:
        event = f"{rule.event_type.split('/')[4].upper()} `{rule.action}`"
        when = f"`{rule.when[0]}` {' or '.join(f'`{value}`' for value in rule.when[1:])}" if rule.when else ""
        when = f"`claims` has `{rule.claim}` alone" if rule.claim else when
        treatment = rule.treatment or "about no agent"
        treatments.setdefault(event, []).append(f"{treatment} if {when}" if when else treatment)
    listed = {"note": "Always a *note*: ", "about no agent": "About no agent: "}
    rows = [f"| {event} | {'; else '.join(cases)} |" for event, cases in treatments.items() if cases[0] not in listed]
    assert " ".join(rows) in page
    for treatment, start in listed.items():
        assert start + ", ".join(event for event, cases in treatments.items() if cases == [treatment]) + "." in page


def test_what_is_not_in_the_table_means_nothing() -> None:
    """Neither a type of nobody, nor one that only ends like a known one, nor odd values where a row asks."""
    assert find_signal_rule("https://evil.example/workload-compromised", {}) is None
    odd = find_signal_rule(WISE + "workload-disabled", {"reason": ["compromise"]})
    assert odd is not None
    assert odd.treatment == "note"


def event_of(rule: SignalRule, members: dict[str, Any], sub_id: Any = AGENT, **claims: Any) -> dict[str, Any]:
    subject = read_signal_subjects(sub_id)[0]
    assert rule.treatment is not None
    given = {"iss": AS, "iat": NOW_S - 5, "jti": "j1", "sub_id": sub_id, "events": {rule.event_type: members}, **claims}
    made = build_signal_event(given, rule, subject._replace(tenant="acme"), rule.treatment, "urn:s", NOW_S)
    decode_event(msgspec.json.encode(made))
    return made


COMPROMISED = find_signal_rule(WISE + "workload-compromised", {}) or SIGNAL_RULES[0]


def test_what_an_event_keeps() -> None:
    """Who, when and what, by members that are words; neither sentences nor credentials of the signal."""
    members = {
        "detection_method": "m" * 500,
        "event_timestamp": NOW_S - 100.5,
        "reason_admin": {"en": "Ann's token eyJ.a.b"},
        "claims": {"secret": "s3cret"},
        "initiating_entity": 7,
    }
    made = event_of(COMPROMISED, members, txn="t-1")
    assert made == {
        "id": "j1",
        "source": "urn:s",
        "time": "2025-11-24T16:00:00.000Z",
        "type": "signal.hard",
        "agent": {"id": "bot", "issuer": AS},
        "action": "workload-compromised",
        "outcome": "success",
        "attributes": {
            "event_type": WISE + "workload-compromised",
            "issuer": AS,
            "detection_method": "m" * 200,
            "told_at": "2025-11-24T15:59:55.000Z",
            "happened_at": "2025-11-24T15:58:19.500Z",
        },
        "tenant": "acme",
        "txn": "t-1",
    }


@pytest.mark.parametrize(
    ("said", "claims", "happened_at"),
    [
        (None, {}, None),
        (None, {"toe": NOW_S - 60}, "2025-11-24T15:59:00.000Z"),
        (NOW_S + 3600, {}, "2025-11-24T16:00:00.000Z"),
        (NOW_S - 10 * 86_400, {}, "2025-11-14T16:00:00.000Z"),
        (1, {}, "1970-01-01T00:00:01.000Z"),
        (-1, {}, None),
        (NOW_S * 1000, {}, None),
        ("2025", {"toe": True}, None),
    ],
)
def test_when_it_happened(said: Any, claims: dict[str, Any], happened_at: str | None) -> None:
    """The event's word, else `toe`; never later than now, and no nonsense. The time of the event is now, whatever is
    said: a compromise of long ago counts from when it is heard of."""
    made = event_of(COMPROMISED, {"event_timestamp": said}, **claims)
    assert (made["time"], made["attributes"].get("happened_at")) == ("2025-11-24T16:00:00.000Z", happened_at)


@pytest.mark.parametrize(
    ("iat", "told_at"),
    [
        (NOW_S + 20, "2025-11-24T16:00:00.000Z"),
        (NOW_S - 2 * 86_400, "2025-11-22T16:00:00.000Z"),
        (0, None),
        (1e11, None),
    ],
)
def test_when_it_was_told(iat: float, told_at: str | None) -> None:
    """By `iat`; a transmitter's clock may be ahead, and what comes late counts from now as well."""
    made = event_of(COMPROMISED, {}, iat=iat)
    assert (made["time"], made["attributes"].get("told_at")) == ("2025-11-24T16:00:00.000Z", told_at)


@pytest.mark.parametrize(
    ("sub_id", "expected"),
    [
        (AGENT, SignalSubject("bot", AS)),
        ({"format": "uri", "uri": "spiffe://acme/bot"}, SignalSubject("spiffe://acme/bot")),
        ({"format": "opaque", "id": "bot"}, SignalSubject("bot")),
        ({"format": "did", "url": "did:example:1"}, SignalSubject("did:example:1")),
        ({"format": "aliases", "identifiers": [{"format": "email", "email": "a@b"}, AGENT]}, SignalSubject("bot", AS)),
        (
            {
                "format": "complex",
                "application": {"format": "opaque", "id": "bot"},
                "user": {"format": "iss_sub", "iss": AS, "sub": "ann"},
                "session": {"format": "opaque", "id": "s1"},
                "tenant": {"format": "opaque", "id": "acme"},
                "token": {"format": "jwt_id", "iss": AS, "jti": "t1"},
            },
            SignalSubject("bot", "", "ann", "s1", "t1", "acme", AS),
        ),
        (
            {"format": "complex", "user": AGENT, "session": {"format": "opaque", "id": "s1"}},
            SignalSubject("bot", AS, "", "s1"),
        ),
        ({"format": "complex", "device": {"format": "opaque", "id": "d"}}, None),
        ({"format": "email", "email": "ann@acme.example"}, None),
        ({"format": "account", "uri": "acct:ann@acme.example"}, None),
        ({"format": "jwt_id", "iss": AS, "jti": "t1"}, None),
        ({"format": "iss_sub", "iss": AS}, None),
        ({"format": "opaque", "id": "x" * 3000}, None),
        ({"format": "aliases", "identifiers": "x"}, None),
        ({"format": 3}, None),
        ("bot", None),
    ],
)
def test_whom_a_subject_names(sub_id: Any, expected: SignalSubject | None) -> None:
    """Formats that can name an agent, alone or with whom it acts for; people's addresses name none."""
    assert next(iter(read_signal_subjects(sub_id)), None) == expected


def test_aliases_are_names_of_one() -> None:
    """All of them are asked, those with an issuer first; of a complex subject each member that can be an agent."""
    uri = {"format": "uri", "uri": "spiffe://acme/bot"}
    user = {"format": "iss_sub", "iss": AS, "sub": "ann"}
    assert read_signal_subjects({"format": "aliases", "identifiers": [uri, 7, user]}) == [
        SignalSubject("ann", AS),
        SignalSubject("spiffe://acme/bot"),
    ]
    complex_one = {"format": "complex", "application": AGENT, "agent": uri, "user": user}
    assert [one.agent_id for one in read_signal_subjects(complex_one)] == ["bot", "spiffe://acme/bot"]
    assert {one.principal for one in read_signal_subjects(complex_one)} == {"ann"}


TOKEN = {"format": "complex", "application": AGENT, "token": {"format": "jwt_id", "iss": AS, "jti": "t1"}}
REVOKING = {
    (CAEP + "session-revoked", "evidence"),
    (RISC + "sessions-revoked", "evidence"),
    (WISE + "credential-revoked", "hard"),
    (WISE + "credential-revoked", "evidence"),
    (WISE + "credential-compromise", "hard"),
}


def digest(token_id: str) -> str:
    return f"sha256:{hashlib.sha256(token_id.encode()).hexdigest()}"


def test_only_what_revokes_names_a_token() -> None:
    """The engine takes every token of a signal for a revoked one: no other row tells it, whatever its subject names."""
    naming = {
        (rule.event_type, rule.treatment)
        for rule in SIGNAL_RULES
        if rule.treatment is not None and "credential" in event_of(rule, {"credential_id": "jti:t2"}, TOKEN)
    }
    assert naming == REVOKING


def test_a_revoked_token_is_named() -> None:
    """By the subject, or by a WISE credential that says it is a token; any other credential is no token."""
    assert event_of(SIGNAL_RULES[1], {}, TOKEN)["credential"] == {"token_id": digest("t1")}
    revoked = find_signal_rule(WISE + "credential-revoked", {"reason": "compromise"})
    assert revoked is not None
    assert event_of(revoked, {"credential_id": "jti:t2"})["credential"] == {"token_id": digest("t2")}
    assert event_of(revoked, {"credential_id": f"jti:{digest('t2')}"})["credential"] == {"token_id": digest("t2")}
    assert event_of(revoked, {"credential_id": "jti:t2"}, TOKEN)["credential"] == {"token_id": digest("t1")}
    for other in ("serial:ABC", "jti:", "t2"):
        assert "credential" not in event_of(revoked, {"credential_id": other})


def test_a_token_of_another_issuer_is_not_the_agents() -> None:
    """A transmitter that may speak for one issuer says nothing of another's tokens."""
    other = TOKEN | {"token": {"format": "jwt_id", "iss": "https://other.example", "jti": "t1"}}
    assert "credential" not in event_of(SIGNAL_RULES[1], {}, other)


def test_a_token_is_named_as_every_format_names_it() -> None:
    """The rule compares what a signal says with what gateways and servers write of the same token."""
    gateway = {"start_time": "2025-11-24T15:59:00Z", "method": "GET", "response_code": 200, "route_name": "pay"}
    ids = [
        one("envoy", gateway | {"jwt.client_id": "bot", "jwt.jti": "t1"})["credential"]["token_id"],
        one("keycloak", LOGIN | {"details": LOGIN["details"] | {"token_id": "t1"}})["credential"]["token_id"],
        event_of(SIGNAL_RULES[1], {}, TOKEN)["credential"]["token_id"],
    ]
    assert set(ids) == {digest("t1")}


def test_the_claim_of_levels_is_the_one_that_hooks_write() -> None:
    assert RISK_CLAIM == LEVEL_CLAIM
