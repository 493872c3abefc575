"""Audit logs of Google Cloud and of Workspace: service accounts, workloads and OAuth clients are agents, people none.

The records in `lines/` were written by hand in the shape that the vendor documents: cloud.google.com/logging,
"LogEntry" and "AuditLog"; developers.google.com/admin-sdk/reports, "Activities: list" and "OAuth Token Audit activity
events".
Whatever may not pass has `SECRET` in it.
"""

from __future__ import annotations

import base64
import json

from ...support.format_samples import audit_log_records, event_rows, one, taken

ORDERS, CLIENT, ANN = "orders@shop.iam.gserviceaccount.com", "77-agent.apps.googleusercontent.com", "ann@example.com"


def test_cloud_audit_logs() -> None:
    """A long operation counts once; who acts through a service account is its principal; people are skipped."""
    found = taken("gcp-audit", audit_log_records("gcp-audit"))
    secret = "google.cloud.secretmanager.v1.SecretManagerService.AccessSecretVersion"
    account, api = "service-account", "api.call"
    pool = (
        "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/github/subject/repo:acme/shop"
    )
    predict = "google.cloud.aiplatform.v1.PredictionService.Predict"

    assert event_rows(found) == [
        (ORDERS, account, None, api, "storage.objects.get", "read", "success"),
        (ORDERS, account, None, api, secret, "read", "denied"),
        (ORDERS, account, ANN, "admin", "google.iam.admin.v1.CreateServiceAccountKey", "admin", "success"),
        ("ci@shop.iam.gserviceaccount.com", account, None, "token.request", "GenerateAccessToken", "read", "success"),
        (pool, "workload-identity", None, api, "jobservice.insert", "write", "success"),
        (ORDERS, account, None, api, "v1.compute.instances.delete", "delete", "success"),
        (CLIENT, "oauth-client", ANN, api, predict, "read", "error"),
    ]
    assert found.skipped == 2
    assert found.events[0]["credential"] == {"thumbprint": "0a1b2c"}
    assert found.events[1]["error"] == "7" and found.events[0]["trace_id"] == "4bf92f35"


def test_entries_of_bigquery_pubsub_and_tables() -> None:
    """BigQuery writes times without `T`, Pub/Sub texts in base64, tables texts alone; gcloud is a person's hand."""
    first = audit_log_records("gcp-audit")[0]
    pushed = {"message": {"data": base64.b64encode(json.dumps(first).encode()).decode(), "messageId": "1"}}
    assert one("gcp-audit", pushed) == one("gcp-audit", first)
    payload = {**first["protoPayload"], "status": {"code": "7"}}
    row = {"protopayload_auditlog": payload, "timestamp": "2026-03-02 08:00:00.5 UTC", "insertId": "i"}
    event = one("gcp-audit", row)
    assert (event["time"], event["outcome"], event["agent"]["id"]) == ("2026-03-02T08:00:00.5Z", "denied", ORDERS)
    gcloud = {"principalEmail": ANN, "oauthInfo": {"oauthClientId": "32555940559.apps.googleusercontent.com"}}
    by_hand = {**first, "protoPayload": {**first["protoPayload"], "authenticationInfo": gcloud}}
    assert taken("gcp-audit", by_hand).skipped == 1
    staff = "principal://iam.googleapis.com/locations/global/workforcePools/staff/subject/ann@example.com"
    account = f"serviceAccount:{ORDERS}"
    for who, agents in (({"principalSubject": staff}, []), ({"principalSubject": account}, [ORDERS])):
        entry = {**first, "protoPayload": {**first["protoPayload"], "authenticationInfo": who}}
        assert [event["agent"]["id"] for event in taken("gcp-audit", entry).events] == agents
    failed = audit_log_records("gcp-audit")[6]
    failed["protoPayload"]["status"] = {"code": 9}
    assert one("gcp-audit", failed)["outcome"] == "error"


def test_workspace() -> None:
    """An activity holds several events; of what a client did with its token the method tells the most."""
    found = taken("google-workspace", audit_log_records("google-workspace"))
    client, sync = "oauth-client", "sync@shop.iam.gserviceaccount.com"
    listed, read = "gmail.users.messages.list", "gmail.users.messages.get"

    assert event_rows(found) == [
        (CLIENT, client, ANN, "token.request", "token:authorize", "unknown", "success"),
        (CLIENT, client, ANN, "api.call", listed, "read", "success"),
        (CLIENT, client, ANN, "api.call", read, "read", "success"),
        (sync, "service-account", None, "api.call", "drive:download", "read", "success"),
        ("88-other.apps.googleusercontent.com", client, ANN, "api.call", "drive:delete", "delete", "success"),
        ("directory-sync", "api-key", None, "admin", "admin:CREATE_USER", "admin", "success"),
        (CLIENT, client, ANN, "token.revoke", "token:revoke", "unknown", "success"),
    ]
    assert len({event["id"] for event in found.events}) == 7 and found.skipped == 1
    assert found.events[1]["bytes_out"] == 2048 and found.events[3]["resource"]["id"] == "d1"


def test_odd_activities_are_told_or_skipped() -> None:
    """None without events, none without a time; parameters that are none are left out."""
    activity = audit_log_records("google-workspace")[0]
    assert taken("google-workspace", {**activity, "events": []}).skipped == 1
    unnamed = {**activity, "id": {**activity["id"], "uniqueQualifier": None}, "events": activity["events"] * 2}
    assert len({event["id"] for event in taken("google-workspace", unnamed).events}) == 2
    assert (
        taken("google-workspace", {**activity, "events": [1, {"name": "x", "parameters": [1, {"name": 2}]}]}).skipped
        == 2
    )
    assert taken("google-workspace", {"actor": {"email": ORDERS}, "id": {}}).refusals
