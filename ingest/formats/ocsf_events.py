"""Open Cybersecurity Schema Framework: what AWS Security Lake and collectors of logs make of many products' records."""

from __future__ import annotations

from .record_mapping import MappingSpec

_AI_AGENT = "(ai_agent || actor.ai_agent || actor.process.ai_agent || process.ai_agent)"
_USER = "(actor.user || user)"
_IS_ROLE = f"({_USER}.type == 'AssumedRole' && actor.session.issuer)"
_APP = "(actor.app_uid || actor.app_name)"
_NO_PERSONS = (
    "['AssumedRole', 'Role', 'IAMUser', 'FederatedUser', 'WebIdentityUser', 'AWSService', 'AWSAccount',"
    " 'System', 'Service', 'Service Account', 'ServiceAccount']"
)
_CONSUMER_LOGINS = "['cognito-identity.amazonaws.com', 'graph.facebook.com', 'www.amazon.com']"
_ACTS_ITSELF = (
    f"(contains({_NO_PERSONS}, {_USER}.type || '-') && !contains({_CONSUMER_LOGINS}, actor.idp.name)"
    f" || contains(['3', '4'], to_string({_USER}.type_id)))"
)
_USER_ID = f"({_USER}.uid || {_USER}.name || {_USER}.email_addr)"
_IS_ACCOUNT = f"({_ACTS_ITSELF} && {_USER_ID})"
_OF_AUTHENTICATION = "contains([`3002`, '3002'], class_uid)"
_OF_IDENTITIES = "contains([`3001`, `3003`, `3004`, `3005`, `3006`, '3001', '3003', '3004', '3005', '3006'], class_uid)"
_OF_CALLS = "contains([`6001`, `6003`, `6005`, '6001', '6003', '6005'], class_uid)"
_IS_FAILED = "(to_string(status_id) == '2' || status == 'Failure')"
_CODE = "(status_code && to_string(status_code))"
_CREDENTIAL_TYPES = "['OAuth 2.0', 'OpenID']"
_OPERATION = "join(':', [before(api.service.name, '.') || '-', api.operation])"

OCSF = MappingSpec(
    anonymous="skip",
    time_format="ms",
    when=f"{_AI_AGENT} || {_OF_AUTHENTICATION} || {_OF_IDENTITIES} || {_OF_CALLS}",
    members={
        "id": "metadata.uid",
        "time": "time || time_dt",
        "agent.id": f"{_AI_AGENT}.uid || {_AI_AGENT}.name || {_IS_ROLE} || {_APP} || {_IS_ACCOUNT} || actor.invoked_by",
        "agent.type": f"{_AI_AGENT} && ({_AI_AGENT}.type || 'ai-agent') || {_IS_ROLE} && 'role'"
        f" || {_APP} && 'application'"
        f" || {_IS_ACCOUNT} && ({_USER}.type == 'IAMUser' && 'iam-user' || {_USER}.type) || 'service'",
        "agent.version": f"{_AI_AGENT}.version",
        "agent.instance": f"{_AI_AGENT}.instance_uid || {_IS_ROLE} && {_USER}.name",
        # Whoever fails to authenticate may name any user.
        "agent.self_asserted": f"{_IS_FAILED} && {_OF_AUTHENTICATION} || null",
        "principal.id": f"({_AI_AGENT} || {_APP}) && {_USER_ID} || null",
        "type": f"{_OF_AUTHENTICATION} && 'token.request' || {_OF_IDENTITIES} && 'admin'"
        f" || contains(['tools/call', 'execute_tool'], api.operation) && 'tool.call' || 'api.call'",
        "action": f"api.operation && {_OPERATION} || join(':', [class_name || to_string(class_uid), activity_name"
        " || to_string(activity_id)])",
        "effect": f"{_OF_IDENTITIES} && 'admin' || {_OF_AUTHENTICATION} && '-'"
        " || activity_name || to_string(activity_id)",
        "resource.type": "resources[0].type || resource.type || web_resources[0].type",
        "resource.id": "resources[0].uid || resources[0].name || resource.uid || no_query(web_resources[0].url_string)"
        " || no_query(http_request.url.path) || entity.uid",
        "resource.target": "api.service.name || service.name || dst_endpoint.hostname || http_request.url.hostname",
        "outcome": f"{_IS_FAILED} && {_OF_AUTHENTICATION} && 'denied'"
        f" || {_IS_FAILED} && outcome({_CODE} || api.response.error || 'failure')"
        " || outcome(api.response.error) || 'success'",
        # Not `status_detail` and `message`: texts hold names and what was sent.
        "error": f"{_IS_FAILED} && {_CODE} || api.response.error",
        "status": "http_response.code",
        "duration_ms": "duration",
        "count": "count",
        "client.ip": "src_endpoint.ip",
        "client.asn": "src_endpoint.autonomous_system.number",
        "client.user_agent": "http_request.user_agent",
        "credential.method": f"contains({_CREDENTIAL_TYPES}, auth_protocol) && auth_protocol || null",
        "credential.token_id": f"sha256({_USER}.credential_uid)",
        "session": "sha256(session.uid || actor.session.uid)",
        "trace_id": "metadata.correlation_uid",
        "attributes.region": "cloud.region",
        "attributes.account": "cloud.account.uid",
        "attributes.product": "metadata.product.name",
        "attributes.model": f"{_AI_AGENT}.ai_model.name || ai_model.name",
    },
    values={
        "effect": {
            "admin": "admin",
            **dict.fromkeys(("2", "Read", "Query", "Search", "Open", "Get"), "read"),
            **dict.fromkeys(("1", "3", "Create", "Update", "Write", "Import", "Share"), "write"),
            **dict.fromkeys(("4", "Delete"), "delete"),
            "*": "unknown",
        },
    },
)
"""OCSF: API Activity, Authentication, the classes of identities, and every class that names an `ai_agent`."""
