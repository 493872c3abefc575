"""Only machine actors are agents: people, addresses, anonymous callers and the platforms themselves never are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingParser, try_records

from ...support.format_samples import audit_log_records, event_rows, one, taken

OKTA: dict[str, Any] = {
    "uuid": "u-1",
    "published": "2026-03-02T08:00:01.123Z",
    "eventType": "app.oauth2.as.token.grant.access_token",
    "client": {"id": "0oa1agent", "ipAddress": "203.0.113.9"},
    "outcome": {"result": "SUCCESS"},
    "target": [],
}
CLOUDTRAIL: dict[str, Any] = {
    "eventID": "e-1",
    "eventTime": "2026-03-02T08:00:01Z",
    "eventSource": "s3.amazonaws.com",
    "eventName": "GetObject",
    "readOnly": True,
}
KUBERNETES: dict[str, Any] = {
    "auditID": "a-1",
    "stage": "ResponseComplete",
    "verb": "list",
    "requestReceivedTimestamp": "2026-03-02T08:00:01.123456Z",
    "objectRef": {"resource": "pods"},
    "responseStatus": {"code": 200},
}
WORKSPACE: dict[str, Any] = {
    "id": {"time": "2026-03-02T08:00:01Z", "uniqueQualifier": "1", "applicationName": "drive"},
    "events": [{"name": "view", "parameters": [{"name": "client_id", "value": "looked-at.example"}]}],
}
OCSF: dict[str, Any] = {
    "metadata": {"uid": "m-1"},
    "time": 1772438400000,
    "class_uid": 6003,
    "api": {"operation": "GetObject"},
}
GCP: dict[str, Any] = {
    "insertId": "i-1",
    "timestamp": "2026-03-02T08:00:01Z",
    "protoPayload": {"methodName": "storage.objects.get", "serviceName": "storage.googleapis.com"},
}
KONG: dict[str, Any] = {
    "request": {"id": "r-1", "method": "GET", "uri": "/x"},
    "started_at": 1772438400000,
    "latencies": {},
    "response": {"status": 200},
}


def okta(actor_type: str | None, **members: object) -> dict[str, Any]:
    """An event of Okta's, of an actor of a type."""
    actor = {"id": "203.0.113.9", "type": actor_type, "alternateId": "x"}
    return {**OKTA, "eventType": "security.threat.detected", "actor": actor, **members}


def gcp(**who: object) -> dict[str, Any]:
    """An entry of Cloud Audit Logs."""
    return {**GCP, "protoPayload": {**GCP["protoPayload"], "authenticationInfo": who}}


NO_MACHINES: list[tuple[str, dict[str, Any]]] = [
    ("okta", okta("IP address")),
    ("okta", okta("IP address", client={"id": None, "ipAddress": "203.0.113.9"})),
    ("okta", okta("User", client={})),
    ("okta", okta("AppUser")),
    ("okta", okta(None)),
    ("okta", okta("SomethingNew", transaction={"detail": {"requestApiTokenId": "00T1"}})),
    ("aws-cloudtrail", {**CLOUDTRAIL, "userIdentity": {"type": "Root", "arn": "arn:aws:iam::1:root"}}),
    ("aws-cloudtrail", {**CLOUDTRAIL, "userIdentity": {"type": "IdentityCenterUser", "onBehalfOf": {"userId": "u"}}}),
    ("aws-cloudtrail", {**CLOUDTRAIL, "userIdentity": {"type": "Unknown", "principalId": "x", "accountId": "1"}}),
    ("aws-cloudtrail", {**CLOUDTRAIL, "userIdentity": {"type": "SAMLUser", "userName": "ann@example.com"}}),
    (
        "aws-cloudtrail",
        {**CLOUDTRAIL, "userIdentity": {"type": "AWSAccount", "principalId": "", "accountId": "ANONYMOUS_PRINCIPAL"}},
    ),
    (
        "aws-cloudtrail",
        {
            **CLOUDTRAIL,
            "userIdentity": {
                "type": "WebIdentityUser",
                "userName": "eu-west-1:1234",
                "identityProvider": "cognito-identity.amazonaws.com",
            },
        },
    ),
    ("aws-cloudtrail", {**CLOUDTRAIL, "userIdentity": {"userName": "ann", "accountId": "1"}}),
    ("kubernetes-audit", {**KUBERNETES, "user": {"username": "ann@example.com"}}),
    ("kubernetes-audit", {**KUBERNETES, "user": {"username": "kubernetes-admin"}}),
    ("kubernetes-audit", {**KUBERNETES, "user": {"username": "system:anonymous"}}),
    ("kubernetes-audit", {**KUBERNETES, "user": {"username": "system:admin"}}),
    (
        "kubernetes-audit",
        {**KUBERNETES, "user": {"username": "arn:aws:sts::1:assumed-role/AWSReservedSSO_Admin_0/ann"}},
    ),
    ("kubernetes-audit", {**KUBERNETES, "user": {}}),
    ("google-workspace", {**WORKSPACE, "actor": {"email": "ann@example.com", "callerType": "USER"}}),
    ("google-workspace", {**WORKSPACE, "actor": {"callerType": "KEY", "key": "SYSTEM"}}),
    ("google-workspace", {**WORKSPACE, "actor": {"email": "ann@mygserviceaccount.com"}}),
    ("gcp-audit", gcp(principalEmail="ann@mygserviceaccount.com")),
    ("gcp-audit", gcp(principalSubject="user:ann@example.com")),
    ("gcp-audit", gcp()),
    ("ocsf", {**OCSF, "actor": {"user": {"type": "IP address", "type_id": 99, "uid": "203.0.113.9"}}}),
    ("ocsf", {**OCSF, "actor": {"user": {"type": "SAMLUser", "uid": "ann@example.com"}}}),
    ("ocsf", {**OCSF, "actor": {"user": {"type": "User", "type_id": 1, "name": "ann"}}}),
    ("ocsf", {**OCSF, "actor": {"user": {"type": "AWSAccount", "uid": "anonymous"}}}),
    (
        "ocsf",
        {**OCSF, "actor": {"idp": {"name": "www.amazon.com"}, "user": {"type": "WebIdentityUser", "uid": "amzn1.x"}}},
    ),
    ("kong", {**KONG, "consumer": {"username": "anonymous"}}),
    ("envoy", {"start_time": "2026-03-02T08:00:01Z", "method": "GET", "response_code": 200, "jwt.sub": "-"}),
    (
        "contextforge",
        {
            "id": "c1",
            "timestamp": "2026-03-02T08:00:00",
            "action": "READ",
            "resource_type": "server",
            "user_id": "system",
            "success": True,
            "requires_review": False,
        },
    ),
]


@pytest.mark.parametrize(("name", "record"), NO_MACHINES)
def test_what_is_not_a_machine_is_not_an_agent(name: str, record: dict[str, Any]) -> None:
    """The record is skipped and counted, and `mapping try` gives a reason."""
    parser = create_parser(name)
    assert isinstance(parser, MappingParser)
    (trial,) = try_records(parser, json.dumps(record).encode())

    assert taken(name, record) == ([], 1, [])
    assert trial.skipped and trial.reason


MACHINES: list[tuple[str, dict[str, Any], tuple[str, str | None, str | None]]] = [
    ("okta", okta("PublicClientApp"), ("203.0.113.9", "oauth-client", None)),
    ("okta", okta("PublicClientAppEntity"), ("203.0.113.9", "oauth-client", None)),
    ("okta", okta("User"), ("0oa1agent", "oauth-client", "x")),
    ("okta", okta("SystemPrincipal"), ("0oa1agent", "oauth-client", None)),
    (
        "aws-cloudtrail",
        {**CLOUDTRAIL, "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/ci", "userName": "ci"}},
        ("arn:aws:iam::1:user/ci", "iam-user", None),
    ),
    (
        "aws-cloudtrail",
        {**CLOUDTRAIL, "userIdentity": {"invokedBy": "lambda.amazonaws.com"}},
        ("lambda.amazonaws.com", "aws-service", None),
    ),
    (
        "aws-cloudtrail",
        {
            **CLOUDTRAIL,
            "userIdentity": {
                "type": "WebIdentityUser",
                "userName": "repo:acme/shop:ref",
                "identityProvider": "arn:aws:iam::1:oidc-provider/token.actions.githubusercontent.com",
            },
        },
        ("repo:acme/shop:ref", "web-identity", None),
    ),
    (
        "kubernetes-audit",
        {**KUBERNETES, "user": {"username": "arn:aws:sts::1:assumed-role/deployer/i-1"}},
        ("arn:aws:sts::1:assumed-role/deployer/i-1", "role", None),
    ),
    (
        "kubernetes-audit",
        {**KUBERNETES, "user": {"username": "bot@p.iam.gserviceaccount.com"}},
        ("bot@p.iam.gserviceaccount.com", "service-account", None),
    ),
    (
        "google-workspace",
        {**WORKSPACE, "actor": {"callerType": "KEY", "key": "robot-1"}},
        ("robot-1", "api-key", None),
    ),
    (
        "ocsf",
        {**OCSF, "actor": {"user": {"type": "AWSAccount", "uid": "111122223333"}}},
        ("111122223333", "AWSAccount", None),
    ),
]


@pytest.mark.parametrize(("name", "record", "who"), MACHINES)
def test_machines_are_agents(name: str, record: dict[str, Any], who: tuple[str, str | None, str | None]) -> None:
    """Agent, its type, and the principal."""
    found = taken(name, record)
    assert [row[:3] for row in event_rows(found)] == [who]


TIMES: dict[str, tuple[str, ...]] = {
    "okta": ("published", "timestamp"),
    "auth0": ("date",),
    "entra-signin": ("createdDateTime",),
    "entra-signin-table": ("TimeGenerated", "CreatedDateTime"),
    "entra-audit": ("activityDateTime", "ActivityDateTime", "TimeGenerated"),
    "github-audit": ("@timestamp",),
    "langsmith": ("start_time",),
    "langfuse": ("startTime", "start_time"),
    "aws-cloudtrail": ("eventTime",),
    "gcp-audit": ("timestamp",),
    "ocsf": ("time", "time_dt"),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_record_without_a_time_says_so(name: str) -> None:
    """It is refused and counted, with the member that has no value; it is not passed over in silence."""
    record = next(record for record in audit_log_records(name) if taken(name, record).events)
    timeless = {member: value for member, value in record.items() if member not in TIMES[name]}

    events, skipped, refusals = taken(name, timeless)

    assert (events, skipped) == ([], 0)
    assert refusals and all("`time`" in refusal and "no value" in refusal for refusal in refusals)


@pytest.mark.parametrize("kind", ["app.oauth2.as.token.detect_reuse", "app.oauth2.token.detect_reuse"])
@pytest.mark.parametrize("result", ["SUCCESS", "FAILURE"])
@pytest.mark.parametrize("actor", [{"id": "0oa1agent", "type": "PublicClientApp"}, {"id": "00u1", "type": "User"}])
def test_reuse_of_a_token_is_evidence_about_the_client(kind: str, result: str, actor: dict[str, str]) -> None:
    """Okta says that detecting succeeded. The use of the token did not, and it is nothing that the client did."""
    event = one("okta", {**OKTA, "eventType": kind, "actor": actor, "outcome": {"result": result}})

    assert event["agent"] == {"id": "0oa1agent", "type": "oauth-client"}
    assert (event["type"], event["action"], event["outcome"]) == ("signal.evidence", kind, "denied")
    assert event["error"] == "token_reuse"
