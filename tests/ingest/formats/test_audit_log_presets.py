"""Audit logs of clouds, directories and platforms: who is the agent, what it did, and that no secret passes.

The records in `lines/` were written by hand in the shape that each vendor documents:

- CloudTrail: docs.aws.amazon.com/awscloudtrail, "CloudTrail record contents" and "userIdentity element"
- Okta: developer.okta.com, "System Log API", LogEvent
- Entra: learn.microsoft.com/graph, "signIn resource type" (beta), "directoryAudit resource type"; of Log Analytics:
  learn.microsoft.com/azure/azure-monitor/reference/tables, "SigninLogs", "AADNonInteractiveUserSignInLogs",
  "AADServicePrincipalSignInLogs", "AADManagedIdentitySignInLogs", "AuditLogs"
- GitHub: docs.github.com, "Audit log events for your enterprise", "Identifying audit log events performed by an access
  token"
- Kubernetes: kubernetes.io, "Auditing" and "kube-apiserver Audit Configuration (v1)"

Whatever may not pass has `SECRET` in it.
"""

from __future__ import annotations

import json

import pytest

from trustwatch.ingest.formats.format_presets import AUDIT_LOG_FORMATS

from ...support.format_samples import AUDIT_LOG_SAMPLES, LINES, audit_log_records, event_rows, taken


def sample(name: str) -> bytes:
    """The file of a format."""
    return (LINES / AUDIT_LOG_SAMPLES[name][0]).read_bytes()


@pytest.mark.parametrize("name", AUDIT_LOG_FORMATS)
def test_nothing_secret_passes(name: str) -> None:
    """Of what records hold besides the mapped members: credentials, parameters, answers, texts of errors."""
    raw = sample(name)
    found = taken(name, raw)

    assert raw.count(b"SECRET") >= 5
    assert found.refusals == [] and len(found.events) >= 5
    assert "SECRET" not in json.dumps(found.events)


@pytest.mark.parametrize("name", AUDIT_LOG_FORMATS)
def test_records_come_one_by_one_in_arrays_and_wrapped(name: str) -> None:
    """As lines, as a list of an API, as an export, and in what shippers put around a line: the same events."""
    records = audit_log_records(name)
    whole = taken(name, sample(name))
    singles = [taken(name, record) for record in records]
    shipped = [taken(name, {"@timestamp": "x", "message": json.dumps(record)}) for record in records]

    assert taken(name, records) == whole
    assert taken(name, {"more": 1, AUDIT_LOG_SAMPLES[name][1]: records}) == whole
    assert [event for found in singles for event in found.events] == whole.events
    assert [event["action"] for found in shipped for event in found.events] == [row[4] for row in event_rows(whole)]
    assert sum(found.skipped for found in singles) == whole.skipped > 0


ACCOUNT = "arn:aws:iam::111122223333:"


def test_cloudtrail() -> None:
    """Roles are agents whatever their sessions are called; people at the console, and root, are none."""
    found = taken("aws-cloudtrail", sample("aws-cloudtrail"))
    orders, runner = f"{ACCOUNT}role/orders-agent", f"{ACCOUNT}user/ci-runner"
    person = f"{ACCOUNT}role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Admin_0123456789abcdef"

    assert event_rows(found) == [
        (orders, "role", "ann@example.com", "api.call", "dynamodb:GetItem", "read", "success"),
        (orders, "role", None, "token.request", "sts:AssumeRole", "read", "success"),
        (runner, "iam-user", None, "api.call", "ec2:RunInstances", "write", "denied"),
        (runner, "iam-user", None, "api.call", "lambda:UpdateFunctionConfiguration20150331v2", "write", "success"),
        (person, "sso-role", "ann@example.com", "admin", "iam:AttachRolePolicy", "admin", "success"),
        (
            "system:serviceaccount:shop:orders",
            "web-identity",
            None,
            "token.request",
            "sts:AssumeRoleWithWebIdentity",
            "read",
            "success",
        ),
        (orders, "role", None, "api.call", "s3:DeleteObject", "delete", "error"),
        ("lambda.amazonaws.com", "aws-service", None, "token.request", "sts:AssumeRole", "read", "success"),
    ]
    assert found.skipped == 2
    resources = [event["resource"].get("id") for event in found.events]
    assert resources[0].endswith("table/orders") and resources[1].endswith("role/reader")
    assert resources[2:4] == [None, "mailer"] and resources[6] == "arn:aws:s3:::invoices/2026/03.pdf"
    assert [event.get("error") for event in found.events[2:3]] == ["Client.UnauthorizedOperation"]
    assert [("ip" in event["client"], "session" in event) for event in found.events[3:]] == [
        (True, False),
        (True, True),
        (True, False),
        (True, True),
        (False, False),
    ]


def test_okta() -> None:
    """Clients are agents, and API tokens; people who sign in, and Okta itself, are none."""
    found = taken("okta", sample("okta"))
    grant, agent, ann = "app.oauth2.as.token.grant", "0oa1agent", "ann@example.com"

    assert event_rows(found) == [
        (agent, "oauth-client", ann, "token.request", f"{grant}.access_token", "unknown", "success"),
        (agent, "oauth-client", None, "token.request", grant, "unknown", "denied"),
        (agent, "oauth-client", None, "token.request", grant, "unknown", "denied"),
        (agent, "oauth-client", None, "token.exchange", f"{grant}.access_token", "unknown", "success"),
        ("0oa2admin", "oauth-client", ann, "admin", "group.user_membership.add", "admin", "success"),
        ("00Tapi1", "api-token", ann, "admin", "user.lifecycle.delete.initiated", "delete", "success"),
        (agent, "oauth-client", None, "token.revoke", "app.oauth2.token.revoke", "unknown", "success"),
    ]
    assert found.skipped == 3
    assert [event["agent"].get("self_asserted") for event in found.events] == [None, None, True, *[None] * 4]
    assert found.events[0]["credential"]["token_id"].startswith("sha256:")
    assert [event.get("resource", {}).get("id") for event in found.events[4:6]] == ["00g1", "00u2bob"]
    assert [event.get("session") for event in found.events[4:6]] == ["102sess", None]


def test_entra() -> None:
    """Applications are agents, alone or for a user who is not there; who signs in at a page is none."""
    found = taken("entra-signin", sample("entra-signin"))
    app, other = "11111111-aaaa-4bbb-8ccc-000000000001", "11111111-aaaa-4bbb-8ccc-000000000002"
    request, refresh = "token.request", "token.refresh"

    assert event_rows(found) == [
        (app, "service-principal", None, request, request, None, "success"),
        (app, "service-principal", None, request, request, None, "denied"),
        (app, "service-principal", None, request, request, None, "denied"),
        (app, "service-principal", None, request, request, None, "error"),
        (other, "managed-identity", None, request, request, None, "success"),
        (app, "delegated-app", "ann@example.com", refresh, refresh, None, "success"),
    ]
    assert found.skipped == 1
    assert [event["agent"].get("self_asserted") for event in found.events] == [None, True, *[None] * 4]
    assert [event.get("error") for event in found.events] == [None, "7000215", "53003", "90033", None, None]
    assert [event["credential"].get("method") for event in found.events[:5:4]] == [
        "private_key_jwt",
        "managed_identity",
    ]
    assert found.events[3]["resource"]["target"] == "Azure Key Vault"


def test_entra_of_log_analytics() -> None:
    """Rows of its tables: the same agents as in Graph's records; who signs in at a page is none."""
    found = taken("entra-signin-table", sample("entra-signin-table"))
    app, other, third = (f"11111111-aaaa-4bbb-8ccc-00000000000{number}" for number in (1, 2, 3))
    request, refresh, ann = "token.request", "token.refresh", "ann@example.com"

    assert event_rows(found) == [
        (app, "service-principal", None, request, request, None, "success"),
        (app, "service-principal", None, request, request, None, "denied"),
        (app, "service-principal", None, request, request, None, "error"),
        (other, "managed-identity", None, request, request, None, "success"),
        (third, "delegated-app", ann, refresh, refresh, None, "success"),
        (third, "delegated-app", ann, request, request, None, "denied"),
    ]
    assert found.skipped == 1
    assert [event["agent"].get("self_asserted") for event in found.events] == [None, True, *[None] * 4]
    assert [event.get("error") for event in found.events] == [None, "7000215", "90033", None, None, "53003"]
    assert found.events[0]["time"].startswith("2026-03-02T08:01:01.123456")
    assert (found.events[0]["credential"]["method"], found.events[0]["resource"]["target"]) == (
        "private_key_jwt",
        "Microsoft Graph",
    )


def test_entra_audit() -> None:
    """What applications change, of Graph and of Log Analytics; what people do is skipped."""
    found = taken("entra-audit", sample("entra-audit"))
    app, principal = "11111111-aaaa-4bbb-8ccc-000000000001", "22222222-aaaa-4bbb-8ccc-000000000001"
    kind, added, member = "service-principal", "Add service principal credentials", "Add member to role"

    assert [(row[0], row[1], row[3], row[4], row[6]) for row in event_rows(found)] == [
        (app, kind, "admin", added, "success"),
        (principal, kind, "admin", added, "success"),
        (app, kind, "admin", added, "error"),
        (app, kind, "admin", member, "success"),
        (app, kind, "admin", added, "success"),
    ]
    assert found.skipped == 1
    assert found.events[0]["resource"] == {
        "type": "ServicePrincipal",
        "id": "33333333-aaaa-4bbb-8ccc-000000000001",
        "target": "Core Directory",
    }


def test_github() -> None:
    """Apps, bots, tokens and keys are agents, whoever they belong to; what a person clicks is none."""
    found = taken("github-audit", sample("github-audit"))
    key = found.events[4]["agent"]["id"]

    assert event_rows(found) == [
        ("release-bot[bot]", "app", None, "api.call", "git.push", "write", "success"),
        ("token:77", "access-token", "ann", "api.call", "git.clone", "read", "success"),
        (
            "token:77",
            "access-token",
            "ann",
            "api.call",
            "PUT /repositories/:id/contents/:path",
            "write",
            "denied",
        ),
        ("oauth-app:5", "oauth-app", "ann", "admin", "org.add_member", "admin", "success"),
        (key, "deploy-key", None, "api.call", "git.fetch", "read", "success"),
        ("token:77", "access-token", "ann@example.com", "api.call", "repo.destroy", "delete", "success"),
        ("dependabot[bot]", "app", None, "api.call", "workflows.created_workflow_run", "write", "success"),
    ]
    assert found.skipped == 1 and key.startswith("token:sha256:")
    assert [event["time"] for event in found.events[:2]] == ["2026-03-02T08:00:01Z", "2026-03-02T08:00:02Z"]
    assert found.events[2]["status"] == 403 and found.events[2]["resource"]["id"] == "acme/shop"


def test_kubernetes() -> None:
    """Service accounts, nodes, components and roles are agents; people and strangers are not."""
    found = taken("kubernetes-audit", sample("kubernetes-audit"))
    orders, role = "system:serviceaccount:shop:order-agent", "arn:aws:iam::111122223333:role/deployer"
    manager = "system:kube-controller-manager"

    assert event_rows(found) == [
        (orders, "service-account", None, "api.call", "list pods", "read", "success"),
        (orders, "service-account", None, "api.call", "get secrets", "read", "denied"),
        (orders, "service-account", None, "api.call", "create pods/exec", "write", "success"),
        (manager, "component", None, "token.request", "create serviceaccounts/token", "write", "success"),
        ("system:node:n-1", "node", None, "api.call", "delete pods", "delete", "error"),
        (role, "role", None, "api.call", "get /healthz", "read", "success"),
    ]
    assert found.skipped == 3
    first, second = found.events[:2]
    assert first["agent"]["instance"] == "order-agent-5d9" and first["client"]["ip"] == "10.0.0.7"
    assert first["credential"]["token_id"].startswith("sha256:")
    assert second["resource"] == {"type": "secrets", "id": "bank/db", "target": "bank"}
    assert (second["status"], second["error"], second["duration_ms"]) == (403, "Forbidden", 500)
