"""Audit logs of Google: Cloud Audit Logs, and activities of Workspace that its Reports API lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import MalformedEvent
from .format_signs import SIGNS
from .record_mapping import MappingSpec, UnpackedRecord
from .wrapped_records import check_surroundings, unpack_audit_log

_AUDIT = "(protoPayload || protopayload_auditlog)"
_WHO = f"{_AUDIT}.authenticationInfo"
_EMAIL = f"{_WHO}.principalEmail"
_SUBJECT = f"{_WHO}.principalSubject"
_GCLOUD = "32555940559.apps.googleusercontent.com"
_IS_SERVICE_ACCOUNT = (
    f"(ends_with({_EMAIL} || '', '.gserviceaccount.com') && {_EMAIL}"
    f" || starts_with({_SUBJECT} || '', 'serviceAccount:') && after({_SUBJECT}, ':'))"
)
_IS_WORKLOAD = (
    f"(contains({_SUBJECT} || '', '/workloadIdentityPools/') && !contains({_SUBJECT} || '', '/workforcePools/')"
    f" && {_SUBJECT})"
)
_CLIENT = f"{_WHO}.oauthInfo.oauthClientId"
_IS_CLIENT = f"({_CLIENT} && {_CLIENT} != '{_GCLOUD}' && {_CLIENT})"
_DELEGATED = f"{_WHO}.serviceAccountDelegationInfo[0]"
_METHOD = f"{_AUDIT}.methodName"
_VERB = f"(after({_METHOD}, '.') || {_METHOD} || '')"
_PERMISSION = f"{_AUDIT}.authorizationInfo[0].permissionType"
_CODE = f"to_string({_AUDIT}.status.code)"
_OF_PERMISSIONS = (
    f"(contains({_METHOD}, 'SetIamPolicy') || contains({_METHOD}, 'setIamPolicy')"
    f" || contains({_METHOD}, 'ServiceAccountKey') || {_AUDIT}.serviceName == 'iam.googleapis.com')"
)
_IS_READ = (
    f"(contains(['ADMIN_READ', 'DATA_READ'], {_PERMISSION}) || starts_with({_VERB}, 'Get') || starts_with({_VERB},"
    f" 'get') || starts_with({_VERB}, 'List') || starts_with({_VERB}, 'list'))"
)
_IS_DELETION = f"(starts_with({_VERB}, 'Delete') || starts_with({_VERB}, 'delete'))"

GCP_AUDIT = MappingSpec(
    anonymous="skip",
    # A long operation is told at its begin and at its end, which counts where it failed.
    when=f"{_METHOD} && !(operation.last && !(operation.first) && contains(['null', '0'], {_CODE}))",
    members={
        "id": "insertId && timestamp && join('-', [insertId, timestamp])",
        "time": "utc(timestamp)",
        "agent.id": f"{_IS_SERVICE_ACCOUNT} || {_IS_WORKLOAD} || {_IS_CLIENT}",
        "agent.type": f"{_IS_SERVICE_ACCOUNT} && 'service-account' || {_IS_WORKLOAD} && 'workload-identity'"
        " || 'oauth-client'",
        "principal.id": f"{_DELEGATED}.firstPartyPrincipal.principalEmail || {_DELEGATED}.principalSubject"
        f" || !{_IS_SERVICE_ACCOUNT} && !{_IS_WORKLOAD} && ({_EMAIL} || {_SUBJECT}) || null",
        "type": f"{_AUDIT}.serviceName == 'iamcredentials.googleapis.com' && 'token.request'"
        f" || {_AUDIT}.serviceName == 'sts.googleapis.com' && 'token.exchange'"
        f" || {_OF_PERMISSIONS} && !{_IS_READ} && 'admin' || 'api.call'",
        "action": _METHOD,
        "effect": f"{_AUDIT}.serviceName == 'iamcredentials.googleapis.com' && 'read' || {_IS_READ} && 'read'"
        f" || {_OF_PERMISSIONS} && 'admin' || {_IS_DELETION} && 'delete' || 'write'",
        "resource.type": "resource.type",
        "resource.id": f"{_AUDIT}.resourceName",
        "resource.target": f"{_AUDIT}.serviceName",
        "outcome": _CODE,
        # Not `status.message`: it quotes what was sent.
        "error": f"!contains(['null', '0'], {_CODE}) && {_CODE}",
        "client.ip": f"contains({_AUDIT}.requestMetadata.callerIp || '-', '.') &&"
        f" {_AUDIT}.requestMetadata.callerIp || contains({_AUDIT}.requestMetadata.callerIp || '-', ':') &&"
        f" {_AUDIT}.requestMetadata.callerIp",
        "client.user_agent": f"{_AUDIT}.requestMetadata.callerSuppliedUserAgent",
        "credential.thumbprint": f"after({_WHO}.serviceAccountKeyName, '/')",
        "trace_id": "after(trace, '/')",
        "attributes.project": "resource.labels.project_id",
        "attributes.location": f"{_AUDIT}.resourceLocation.currentLocations[0] || resource.labels.location",
    },
    values={"outcome": {"null": "success", "0": "success", "7": "denied", "16": "denied", "*": "error"}},
)
"""Cloud Audit Logs: entries of Logs Explorer, of a sink to Cloud Storage, Pub/Sub or BigQuery."""

_ACTOR_CLIENT = "actor.applicationInfo.oauthClientId"
_IS_ACCOUNT = "(ends_with(actor.email || '', '.gserviceaccount.com') && actor.email)"
_OF_TOKENS = "id.applicationName == 'token'"
_CLIENT_OF_ACTIVITY = f"({_OF_TOKENS} && parameters.client_id || {_ACTOR_CLIENT})"
_GIVEN = "contains(['authorize', 'request'], event.name)"

GOOGLE_WORKSPACE = MappingSpec(
    anonymous="skip",
    members={
        "id": "id.uniqueQualifier && id.time"
        " && join('-', [id.time, id.uniqueQualifier, id.applicationName || '-', number])",
        "time": "id.time",
        "agent.id": f"{_CLIENT_OF_ACTIVITY} || {_IS_ACCOUNT}"
        # Google's own automatic work has this key.
        " || actor.callerType == 'KEY' && actor.key != 'SYSTEM' && actor.key",
        "agent.type": f"{_CLIENT_OF_ACTIVITY} && 'oauth-client' || {_IS_ACCOUNT} && 'service-account' || 'api-key'",
        "principal.id": "!ends_with(actor.email || '', '.gserviceaccount.com') && (actor.email || actor.profileId)"
        " || null",
        "type": f"{_OF_TOKENS} && ({_GIVEN} && 'token.request' || event.name == 'revoke' && 'token.revoke')"
        " || id.applicationName == 'admin' && 'admin' || 'api.call'",
        # Of what an application did with its token the method tells more than the name of the event.
        "action": f"{_OF_TOKENS} && parameters.method_name"
        " || join(':', [id.applicationName || '-', parameters.api_method || event.name || '-'])",
        "effect": f"id.applicationName == 'admin' && 'admin' || {_OF_TOKENS} && after(parameters.method_name, '.')"
        " || event.name",
        "resource.type": "parameters.doc_type || parameters.product_bucket",
        "resource.id": "parameters.doc_id || parameters.USER_EMAIL || parameters.GROUP_EMAIL",
        "resource.target": "parameters.api_name || id.applicationName",
        "scopes.granted": f"{_OF_TOKENS} && event.name == 'authorize' && parameters.scope",
        "scopes.requested": f"{_OF_TOKENS} && event.name == 'request' && parameters.scope",
        "outcome": "contains(['deny', 'denied'], event.name) && 'denied' || 'success'",
        "bytes_out": "parameters.num_response_bytes",
        "client.ip": "ipAddress",
        "attributes.application": "parameters.app_name || actor.applicationInfo.applicationName",
        "attributes.client_type": "parameters.client_type",
    },
    values={
        "effect": {
            "admin": "admin",
            **dict.fromkeys(("view", "download", "preview", "print", "list", "get", "search", "watch"), "read"),
            **dict.fromkeys(("create", "edit", "upload", "rename", "move", "copy", "add_to_folder"), "write"),
            **dict.fromkeys(("insert", "send", "update", "patch", "modify", "batchModify", "import"), "write"),
            **dict.fromkeys(("delete", "trash", "batchDelete"), "delete"),
            **dict.fromkeys(("change_user_access", "change_document_visibility", "change_acl_editors"), "admin"),
            "*": "unknown",
        }
    },
)
"""Activities of Google Workspace: an OAuth client, service account or key is the agent, its user the principal."""


def unpack_workspace_activities(value: bytes) -> Iterator[UnpackedRecord]:
    """Events of activities: one of these may hold several, whose parameters are a list of names and values."""
    for unpacked in unpack_audit_log(value, shows=SIGNS["google-workspace"]):
        raw, record = unpacked.raw, unpacked.record
        events = record.get("events") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(events, list):
            yield unpacked
            continue
        try:
            check_surroundings(record, len(events))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
            continue
        if not events:
            yield UnpackedRecord(raw, None)
        for number, event in enumerate(events):
            named = event if isinstance(event, dict) else {}
            parameters = _parameter_values(named.get("parameters"))
            yield UnpackedRecord(raw, {**record, "event": named, "number": str(number), "parameters": parameters})


def _parameter_values(parameters: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for parameter in parameters if isinstance(parameters, list) else ():
        if isinstance(parameter, dict) and isinstance(parameter.get("name"), str):
            given = (parameter.get(member) for member in ("value", "intValue", "boolValue", "multiValue"))
            values[parameter["name"]] = next((value for value in given if value is not None), None)
    return values
