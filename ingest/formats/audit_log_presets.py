"""Mappings of the audit logs of clouds, directories and platforms, as their manuals describe them.

Agents are what acts by itself: roles, service accounts, applications, by a list of the machine actors that each log
names. Any other actor (a person, an address, an anonymous caller, the platform itself) is at most the principal of a
client, and a record that names only such an actor is skipped. Nothing of what a request or an answer held passes,
except the name of the object that it was about: these logs hold environment variables, policies, and sometimes secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .agent_traces import AGENT_TRACE_PRESETS
from .gateway_presets import EFFECT_OF_METHOD, OUTCOME_OF_STATUS
from .google_audit import GCP_AUDIT, GOOGLE_WORKSPACE
from .ocsf_events import OCSF
from .record_mapping import MappingSpec


def _first_text(*paths: str) -> str:
    """The first of several members that is there, if it is a text: in these logs those of one name have many types."""
    first = f"({' || '.join(paths)})"
    return f"type({first}) == 'string' && {first}"


def _is_true(path: str) -> str:
    """True, as JSON or as a table of texts says it."""
    return f"contains([`true`, 'true'], {path})"


_ISSUER = "userIdentity.sessionContext.sessionIssuer"
_IS_READ = _is_true("readOnly")
_IS_WRITE = "contains([`false`, 'false'], readOnly)"
_OF_PERMISSIONS = (
    "(contains(['iam.amazonaws.com', 'organizations.amazonaws.com', 'sso.amazonaws.com', 'cloudtrail.amazonaws.com'],"
    " eventSource) || contains(eventName, 'Policy') || contains(eventName, 'Permission'))"
)
_IS_PERSON_OF_SSO = f"contains({_ISSUER}.arn || '', '/AWSReservedSSO_')"
_IS_SERVICE_ROLE = f"contains({_ISSUER}.arn || '', ':role/aws-service-role/')"
_AWS_MACHINES = "['AssumedRole', 'Role', 'IAMUser', 'FederatedUser', 'WebIdentityUser', 'AWSAccount', 'AWSService']"
_AWS_CONSUMER_LOGINS = "['cognito-identity.amazonaws.com', 'graph.facebook.com', 'www.amazon.com']"
_IS_AWS_MACHINE = (
    f"(contains({_AWS_MACHINES}, userIdentity.type) || !(userIdentity.type) && userIdentity.invokedBy)"
    f" && !contains({_AWS_CONSUMER_LOGINS}, userIdentity.identityProvider)"
)
_SESSION_NAME = "userIdentity.type == 'AssumedRole' && after(userIdentity.principalId, ':')"

AWS_CLOUDTRAIL = MappingSpec(
    anonymous="skip",
    when=f"eventName && eventType != 'AwsConsoleSignIn' && {_IS_AWS_MACHINE}"
    f" && !{_is_true('sessionCredentialFromConsole')}",
    members={
        "id": "eventID",
        "time": "eventTime",
        "agent.id": f"{_ISSUER}.arn || userIdentity.arn || userIdentity.invokedBy || userIdentity.userName"
        " || userIdentity.principalId || userIdentity.accountId",
        "agent.type": f"{_IS_PERSON_OF_SSO} && 'sso-role' || {_IS_SERVICE_ROLE} && 'aws-service'"
        " || userIdentity.type || 'aws-service'",
        "agent.instance": _SESSION_NAME,
        "principal.id": "userIdentity.sessionContext.sourceIdentity || userIdentity.onBehalfOf.userId"
        f" || {_IS_PERSON_OF_SSO} && {_SESSION_NAME}",
        "type": "eventSource == 'sts.amazonaws.com' && (starts_with(eventName, 'AssumeRole')"
        " || contains(['GetSessionToken', 'GetFederationToken'], eventName)) && 'token.request'"
        f" || {_IS_WRITE} && {_OF_PERMISSIONS} && 'admin' || 'api.call'",
        "action": "join(':', [before(eventSource, '.') || '-', eventName])",
        "effect": f"{_IS_READ} && 'read' || {_IS_WRITE} && ({_OF_PERMISSIONS} && 'admin'"
        " || (starts_with(eventName, 'Delete') || starts_with(eventName, 'Terminate')) && 'delete' || 'write')"
        " || 'unknown'",
        "resource.type": "resources[0].type",
        "resource.id": _first_text(
            "resources[0].ARN",
            *(
                f"requestParameters.{name}"
                for name in (
                    "roleArn",
                    "bucketName",
                    "functionName",
                    "tableName",
                    "secretId",
                    "keyId",
                    "queueUrl",
                    "topicArn",
                    "policyArn",
                    "instanceId",
                    "instancesSet.items[0].instanceId",
                    "userName",
                    "roleName",
                    "name",
                )
            ),
        ),
        "resource.target": "eventSource",
        "outcome": "outcome(errorCode) || 'success'",
        # Not `errorMessage`: it quotes what was sent.
        "error": "errorCode",
        "bytes_in": "additionalEventData.bytesTransferredIn",
        "bytes_out": "additionalEventData.bytesTransferredOut",
        # Services of AWS stand here by their names.
        "client.ip": "sourceIPAddress && !ends_with(sourceIPAddress, '.amazonaws.com')"
        " && sourceIPAddress != 'AWS Internal' && sourceIPAddress",
        "client.user_agent": "userAgent",
        "credential.token_id": "sha256(userIdentity.accessKeyId)",
        # Keys of a role's session begin so; those of a user stay the same for years.
        "session": "starts_with(userIdentity.accessKeyId || '', 'ASIA') && sha256(userIdentity.accessKeyId)",
        "attributes.region": "awsRegion",
        "attributes.account": "recipientAccountId",
        "attributes.invoked_by": "userIdentity.invokedBy",
    },
    values={
        "agent.type": {
            "AssumedRole": "role",
            "Role": "role",
            "IAMUser": "iam-user",
            "FederatedUser": "federated-user",
            "WebIdentityUser": "web-identity",
            "AWSAccount": "aws-account",
            "AWSService": "aws-service",
            "sso-role": "sso-role",
            "aws-service": "aws-service",
            "*": "other",
        },
    },
)
"""AWS CloudTrail: management and data events, of a trail's files, CloudTrail Lake, EventBridge or CloudWatch Logs."""

_OKTA_ACTS_ITSELF = "contains(['PublicClientApp', 'PublicClientAppEntity'], actor.type)"
_OKTA_USES_CLIENT = "contains(['User', 'SystemPrincipal'], actor.type)"
_OKTA_CLIENT = f"({_OKTA_ACTS_ITSELF} && actor.id || {_OKTA_USES_CLIENT} && client.id)"
_OKTA_GRANT = "contains(eventType, 'token.grant')"
_OKTA_GRANT_TYPE = "debugContext.debugData.grantType"
_OKTA_REFUSALS = (
    "['access_denied', 'invalid_client', 'invalid_grant', 'invalid_scope', 'no_matching_policy', 'no_matching_scope',"
    " 'unauthorized_client', 'user_not_assigned']"
)
_OKTA_REUSE = "ends_with(eventType, 'token.detect_reuse')"
_OKTA_TOKENS = "['access_token', 'id_token', 'refresh_token']"

OKTA = MappingSpec(
    anonymous="skip",
    # ID and refresh tokens come with an access token, and would count its grant again.
    when="eventType && !ends_with(eventType, 'token.grant.id_token')"
    " && !ends_with(eventType, 'token.grant.refresh_token')",
    members={
        "id": "uuid",
        "time": "published",
        "agent.id": f"{_OKTA_CLIENT} || {_OKTA_USES_CLIENT} && transaction.detail.requestApiTokenId",
        "agent.type": f"{_OKTA_CLIENT} && 'oauth-client' || 'api-token'",
        # Whoever fails to authenticate may name any client.
        "agent.self_asserted": "outcome.reason == 'invalid_client' || null",
        "principal.id": "actor.type == 'User' && actor.alternateId"
        f" || {_OKTA_GRANT} && (target[?type == 'User'].alternateId | [0])",
        "type": f"{_OKTA_GRANT} && ({_OKTA_GRANT_TYPE} == 'refresh_token' && 'token.refresh'"
        f" || ends_with({_OKTA_GRANT_TYPE} || '', ':token-exchange') && 'token.exchange' || 'token.request')"
        " || ends_with(eventType, '.authorize') && 'token.request'"
        " || contains(eventType, 'token.revoke') && 'token.revoke'"
        # Okta's word about the client, and nothing that the client did.
        f" || {_OKTA_REUSE} && 'signal.evidence'"
        " || eventType == 'app.oauth2.client.lifecycle.create' && 'client.register'"
        " || starts_with(eventType, 'app.oauth2.client.') && 'client.change' || 'admin'",
        "action": "eventType",
        "effect": "starts_with(eventType, 'app.oauth2.') && 'unknown' || contains(eventType, '.delete') && 'delete'"
        " || 'admin'",
        "resource.type": f"target[?!contains({_OKTA_TOKENS}, type)].type | [0]",
        "resource.id": f"target[?!contains({_OKTA_TOKENS}, type)].id | [0]",
        "outcome": f"({_OKTA_REUSE} || outcome.result == 'FAILURE' && contains({_OKTA_REFUSALS}, outcome.reason))"
        " && 'DENY' || outcome.result",
        "error": f"{_OKTA_REUSE} && 'token_reuse' || contains(['FAILURE', 'DENY'], outcome.result) && outcome.reason",
        "client.ip": "client.ipAddress",
        "client.user_agent": "client.userAgent.rawUserAgent",
        "credential.token_id": "sha256(target[?type == 'access_token'].id | [0])",
        "session": "authenticationContext.externalSessionId != 'unknown' && authenticationContext.externalSessionId",
        "attributes.grant_type": _OKTA_GRANT_TYPE,
    },
    values={
        "outcome": {
            "SUCCESS": "success",
            "ALLOW": "success",
            "SKIPPED": "success",
            "DENY": "denied",
            "CHALLENGE": "denied",
            "*": "error",
        },
    },
)
"""Okta System Log: of its API, a log stream, an event hook, or the table that its console downloads."""

_ENTRA_APP_ALONE = "servicePrincipalId && servicePrincipalId != ''"
_ENTRA_UNPROVEN = ("7000215", "7000216", "7000222", "700027", "700024", "7002181")
"""Errors of whoever does not prove to be the client: a wrong or expired secret, a wrong assertion."""
_ENTRA_REFUSALS = ("50105", "50126", "50079", "50076", "53000", "53001", "53002", "53003", "53004", "65001", "70043")
"""Errors by which the directory refuses: not assigned, no consent, conditional access, a revoked grant."""

_ENTRA_OUTCOMES = {"0": "success", **dict.fromkeys((*_ENTRA_UNPROVEN, *_ENTRA_REFUSALS), "denied"), "*": "error"}
_ENTRA_METHODS = {
    "clientSecret": "client_secret_post",
    "certificate": "private_key_jwt",
    "clientAssertion": "private_key_jwt",
    "federatedIdentityCredential": "private_key_jwt",
    "managedIdentity": "managed_identity",
}

ENTRA_SIGN_IN = MappingSpec(
    anonymous="skip",
    when=f"{_ENTRA_APP_ALONE} || isInteractive == `false` || isInteractive == 'false'",
    members={
        "id": "id",
        "time": "createdDateTime",
        "agent.id": "appId",
        "agent.type": f"contains(signInEventTypes || `[]`, 'managedIdentity') && 'managed-identity'"
        f" || {_ENTRA_APP_ALONE} && 'service-principal' || 'delegated-app'",
        # Whoever fails to authenticate may name any client.
        "agent.self_asserted": f"contains(`{json.dumps(_ENTRA_UNPROVEN)}`, to_string(status.errorCode)) || null",
        "principal.id": f"!({_ENTRA_APP_ALONE}) && (userPrincipalName || userId) || null",
        "type": "incomingTokenType == 'refreshToken' && 'token.refresh' || 'token.request'",
        "action": "incomingTokenType == 'refreshToken' && 'token.refresh' || 'token.request'",
        "resource.target": "resourceDisplayName",
        "resource.audience": "resourceId",
        "outcome": "status.errorCode",
        # Not `failureReason`: codes are the same for all, its texts hold names.
        "error": "to_string(status.errorCode) != '0' && to_string(status.errorCode) || null",
        "client.ip": "ipAddress",
        "client.user_agent": "userAgent",
        "credential.method": "clientCredentialType",
        "credential.thumbprint": "servicePrincipalCredentialThumbprint",
        "credential.token_id": "sha256(uniqueTokenIdentifier)",
        "attributes.app": "appDisplayName || servicePrincipalName",
        "attributes.conditional_access": "conditionalAccessStatus",
    },
    values={"outcome": _ENTRA_OUTCOMES, "credential.method": _ENTRA_METHODS},
)
"""Microsoft Entra sign-ins of service principals, managed identities and apps for users: of Graph or Azure Monitor."""

_TABLE_APP_ALONE = "ServicePrincipalId && !UserPrincipalName && !UserId"
_TABLE_MANAGED = "(Type == 'AADManagedIdentitySignInLogs' || Category == 'ManagedIdentitySignInLogs')"
_TABLE_NOT_INTERACTIVE = (
    "(Type == 'AADNonInteractiveUserSignInLogs' || Category == 'NonInteractiveUserSignInLogs'"
    " || contains(['false', 'False'], to_string(IsInteractive)))"
)

ENTRA_SIGN_IN_TABLE = MappingSpec(
    anonymous="skip",
    when=f"AppId && ({_TABLE_APP_ALONE} || {_TABLE_NOT_INTERACTIVE})",
    members={
        "id": "Id",
        "time": "CreatedDateTime || TimeGenerated",
        "agent.id": "AppId",
        "agent.type": f"{_TABLE_MANAGED} && 'managed-identity'"
        f" || {_TABLE_APP_ALONE} && 'service-principal' || 'delegated-app'",
        "agent.self_asserted": f"contains(`{json.dumps(_ENTRA_UNPROVEN)}`, to_string(ResultType)) || null",
        "principal.id": f"!({_TABLE_APP_ALONE}) && (UserPrincipalName || UserId) || null",
        "type": "IncomingTokenType == 'refreshToken' && 'token.refresh' || 'token.request'",
        "action": "IncomingTokenType == 'refreshToken' && 'token.refresh' || 'token.request'",
        "resource.target": "ResourceDisplayName",
        "resource.audience": "ResourceIdentity",
        "outcome": "to_string(ResultType)",
        "error": "to_string(ResultType) != '0' && to_string(ResultType) || null",
        "client.ip": "IPAddress",
        "client.user_agent": "UserAgent",
        "credential.method": "ClientCredentialType",
        "credential.thumbprint": "ServicePrincipalCredentialThumbprint",
        "credential.token_id": "sha256(UniqueTokenIdentifier)",
        "attributes.app": "AppDisplayName || ServicePrincipalName",
        "attributes.conditional_access": "ConditionalAccessStatus",
    },
    values={"outcome": _ENTRA_OUTCOMES, "credential.method": _ENTRA_METHODS},
)
"""Rows of the tables that Log Analytics keeps of Entra sign-ins: `SigninLogs`, `AADNonInteractiveUserSignInLogs`,
`AADServicePrincipalSignInLogs` and `AADManagedIdentitySignInLogs`, with the columns of Azure Monitor's reference."""

_ENTRA_APP = "(initiatedBy.app || InitiatedBy.app)"

ENTRA_AUDIT = MappingSpec(
    anonymous="skip",
    when=_ENTRA_APP,
    members={
        "id": "id || Id",
        "time": "activityDateTime || ActivityDateTime || TimeGenerated",
        # The id by which sign-ins name it, where it is there.
        "agent.id": f"{_ENTRA_APP}.appId || {_ENTRA_APP}.servicePrincipalId",
        "agent.type": "'service-principal'",
        "type": "'admin'",
        "action": "activityDisplayName || ActivityDisplayName || OperationName",
        "resource.target": "loggedByService || LoggedByService",
        "resource.type": "(targetResources || TargetResources)[0].type",
        "resource.id": "(targetResources || TargetResources)[0].id",
        "outcome": "result || Result",
        "attributes.app": f"{_ENTRA_APP}.displayName",
        "attributes.category": "category || Category",
    },
    values={"outcome": {"success": "success", "*": "error"}},
)
"""Microsoft Entra audit log: what applications change in the directory, of Graph, Azure Monitor or Log Analytics."""

_GITHUB_APP = f"({_is_true('actor_is_bot')} || {_is_true('actor_is_agent')} || ends_with(actor || '', '[bot]'))"
_GITHUB_OAUTH = "oauth_application_id && join(':', ['oauth-app', to_string(oauth_application_id)])"
_GITHUB_CREDENTIAL_NAME = (
    "programmatic_access_type && (token_id && join(':', ['token', to_string(token_id)])"
    " || hashed_token && join(':', ['token', sha256(hashed_token)]))"
)
_GITHUB_ADMINISTRATION = (
    "['business', 'environment', 'hook', 'integration', 'integration_installation', 'members',"
    " 'oauth_application', 'org', 'org_credential_authorization', 'personal_access_token', 'protected_branch',"
    " 'repository_ruleset', 'role', 'team']"
)

GITHUB_AUDIT = MappingSpec(
    anonymous="skip",
    time_format="ms",
    when="action",
    members={
        "id": '"_document_id"',
        "time": '"@timestamp"',
        "agent.id": f"{_GITHUB_APP} && actor || {_GITHUB_OAUTH} || {_GITHUB_CREDENTIAL_NAME}",
        "agent.type": f"{_GITHUB_APP} && 'app' || oauth_application_id && 'oauth-app'"
        " || actor == 'deploy_key' && 'deploy-key' || 'access-token'",
        "principal.id": f"!{_GITHUB_APP} && actor != 'deploy_key' && (external_identity_nameid || actor) || null",
        "type": f"contains({_GITHUB_ADMINISTRATION}, before(action, '.')) && 'admin' || 'api.call'",
        # Routes name no object; paths do.
        "action": "action == 'api.request' && join(' ', [request_method || '-', route || '-']) || action",
        "effect": f"contains({_GITHUB_ADMINISTRATION}, before(action, '.')) && 'admin' || operation_type"
        " || request_method || after(action, '.')",
        "resource.id": "repo || user || org",
        "resource.target": "repo || org",
        "outcome": "status_code || 'success'",
        "status": "status_code",
        "client.ip": "actor_ip",
        "client.user_agent": "user_agent",
        # A hash already, by which GitHub's own search finds a token: so it is hashed again.
        "credential.token_id": "sha256(hashed_token)",
        "credential.method": "programmatic_access_type",
        "attributes.org": "org",
        "attributes.token_scopes": "token_scopes",
    },
    values={
        "outcome": {**OUTCOME_OF_STATUS, "success": "success"},
        "effect": {
            **EFFECT_OF_METHOD,
            "admin": "admin",
            "access": "read",
            "create": "write",
            "modify": "write",
            "restore": "write",
            "transfer": "write",
            "remove": "delete",
            **dict.fromkeys(("clone", "fetch", "download"), "read"),
            **dict.fromkeys(("push", "update", "add"), "write"),
            **dict.fromkeys(("destroy", "delete"), "delete"),
        },
    },
)
"""GitHub's audit log: of its API, an export or a stream."""

_KUBERNETES_EXTRA = 'user.extra."authentication.kubernetes.io/{}"[0]'
_KUBERNETES_OF_ROLES = "objectRef.apiGroup == 'rbac.authorization.k8s.io'"
_KUBERNETES_CHANGES = "!contains(['get', 'list', 'watch'], verb)"
_KUBERNETES_ROLE = (
    "((contains(user.username, ':role/') || contains(user.username, ':assumed-role/'))"
    " && !contains(user.username, 'AWSReservedSSO_'))"
)
_KUBERNETES_CLOUD_ACCOUNT = "ends_with(user.username, '.gserviceaccount.com')"
_KUBERNETES_OWN = (
    "(starts_with(user.username, 'system:') && !contains(['system:anonymous', 'system:admin'], user.username))"
)
_KUBERNETES_RESOURCE = "join('/', [objectRef.resource, objectRef.subresource || ''][?@ != ''])"

KUBERNETES_AUDIT = MappingSpec(
    anonymous="skip",
    # A request is told at several stages; one that is watched begins to be answered, and ends when nobody looks.
    when="contains(['ResponseComplete', 'Panic'], stage)",
    members={
        "id": "join('-', [auditID, stage])",
        "time": "requestReceivedTimestamp || stageTimestamp",
        "agent.id": f"user.username && ({_KUBERNETES_OWN} || {_KUBERNETES_ROLE} || {_KUBERNETES_CLOUD_ACCOUNT})"
        " && user.username || null",
        "agent.type": f"(starts_with(user.username, 'system:serviceaccount:') || {_KUBERNETES_CLOUD_ACCOUNT})"
        " && 'service-account' || starts_with(user.username, 'system:node:') && 'node'"
        f" || {_KUBERNETES_ROLE} && 'role' || {_KUBERNETES_OWN} && 'component' || 'user'",
        "agent.instance": _KUBERNETES_EXTRA.format("pod-name"),
        "principal.id": "impersonatedUser.username",
        "type": "objectRef.resource == 'serviceaccounts' && objectRef.subresource == 'token' && 'token.request'"
        f" || {_KUBERNETES_OF_ROLES} && {_KUBERNETES_CHANGES} && 'admin' || 'api.call'",
        "action": f"join(' ', [verb, objectRef.resource && {_KUBERNETES_RESOURCE} || no_query(requestURI) || '-'])",
        "effect": f"{_KUBERNETES_OF_ROLES} && {_KUBERNETES_CHANGES} && 'admin' || verb",
        "resource.type": "objectRef.resource",
        "resource.id": "objectRef.name && join('/', [objectRef.namespace || '-', objectRef.name])",
        "resource.target": "objectRef.namespace",
        "outcome": "responseStatus.code || stage",
        "status": "responseStatus.code",
        "duration_ms": "ms_between(requestReceivedTimestamp, stageTimestamp)",
        # Not `responseStatus.message`: it quotes what was sent.
        "error": "responseStatus.reason",
        "client.ip": "sourceIPs[0]",
        "client.user_agent": "userAgent",
        "credential.token_id": f"sha256({_KUBERNETES_EXTRA.format('credential-id')})",
    },
    values={
        "outcome": {**OUTCOME_OF_STATUS, "ResponseComplete": "success"},
        "effect": {
            "admin": "admin",
            **dict.fromkeys(("get", "list", "watch"), "read"),
            **dict.fromkeys(("create", "update", "patch", "post", "put"), "write"),
            **dict.fromkeys(("delete", "deletecollection"), "delete"),
            "*": "unknown",
        },
    },
)
"""Audit events of a Kubernetes API server: of its log, its webhook, or what a cloud ships of it."""

_AUTH0_GRANT_NAMES = {
    "acft": "authorization_code",
    "ccft": "client_credentials",
    "rtft": "refresh_token",
    "rrt": "refresh_token",
    "pft": "password",
    "de": "device_code",
    "cte": "token_exchange",
}
"""Exchanges for a token, behind `se` and `fe`; others of them end in `ft`, too."""

_AUTH0_IDJAG = "starts_with(type, 'idjag_exchange')"
_AUTH0_CIBA = "starts_with(type, 'ciba_exchange')"
_AUTH0_OTHERS = "['sede', 'fede', 'secte', 'fecte', 'serrt', 'ferrt']"
_AUTH0_IS_GRANT = (
    f"((starts_with(type, 'se') || starts_with(type, 'fe')) && ends_with(type, 'ft')"
    f" || contains({_AUTH0_OTHERS}, type) || {_AUTH0_IDJAG} || {_AUTH0_CIBA})"
)
_AUTH0_IS_FAILED = f"({_AUTH0_IS_GRANT} && (starts_with(type, 'fe') || ends_with(type, '_failed')))"
_AUTH0_PROVEN = "(contains(description || '', 'not authorized to access') || type == 'ferrt')"
"""Refusals of who has proved to be the client."""

_AUTH0_IS_API = "contains(['sapi', 'fapi', 'mgmt_api_read'], type)"
_AUTH0_OF_DASHBOARD = "contains(details.request.channel || '', 'manage.')"
_AUTH0_BY_API = f"({_AUTH0_IS_API} && !{_AUTH0_OF_DASHBOARD})"
_AUTH0_REVOKED = "contains(['srrt', 'frrt', 'revoked_refresh_token'], type)"
_AUTH0_USER = "user_id && !ends_with(user_id, '@clients') && user_id"

AUTH0 = MappingSpec(
    anonymous="skip",
    when=f"type && ({_AUTH0_IS_GRANT} || {_AUTH0_BY_API} || {_AUTH0_REVOKED})",
    members={
        "id": 'log_id || "_id"',
        "time": "date",
        "agent.id": "agent_id || client_id",
        "agent.type": "agent_id && 'agent' || 'oauth-client'",
        # Whoever fails to authenticate may name any client.
        "agent.self_asserted": f"{_AUTH0_IS_FAILED} && !{_AUTH0_PROVEN} || type == 'frrt'"
        " || type == 'fapi' && to_string(details.response.statusCode) == '401' || null",
        "principal.id": _AUTH0_USER,
        "type": f"{_AUTH0_REVOKED} && 'token.revoke'"
        " || contains(['sertft', 'fertft', 'serrt', 'ferrt'], type) && 'token.refresh'"
        f" || (contains(['secte', 'fecte'], type) || {_AUTH0_IDJAG}) && 'token.exchange'"
        f" || {_AUTH0_IS_GRANT} && 'token.request'"
        " || starts_with(description || '', 'Create a client') && 'client.register'"
        " || starts_with(description || '', 'Update a client') && 'client.change'"
        " || (type == 'mgmt_api_read' || details.request.method == 'get') && 'api.call' || 'admin'",
        "action": " || ".join(
            f"contains(['se{code}', 'fe{code}'], type) && '{name}'" for code, name in _AUTH0_GRANT_NAMES.items()
        )
        + f" || {_AUTH0_IDJAG} && 'identity_assertion' || {_AUTH0_CIBA} && 'ciba' || {_AUTH0_REVOKED} && 'token.revoke'"
        " || type == 'fapi' && join(' ', ['failed', details.request.method || '-'])"
        f" || {_AUTH0_IS_API} && description || type",
        "effect": f"{_AUTH0_IS_GRANT} && 'unknown' || type == 'mgmt_api_read' && 'get' || details.request.method",
        "resource.id": "no_query(details.request.path)",
        "resource.target": "hostname",
        "resource.audience": "audience",
        "scopes.granted": f"{_AUTH0_IS_GRANT} && !{_AUTH0_IS_FAILED} && scope",
        "scopes.requested": f"{_AUTH0_IS_FAILED} && scope",
        "outcome": "type == 'fapi' && (contains(['401', '403'], to_string(details.response.statusCode)) && 'denied'"
        " || 'error')"
        f" || {_AUTH0_IS_FAILED} && 'denied' || type == 'frrt' && 'error' || 'success'",
        # Not `description` of what failed: it holds names.
        "error": "starts_with(type, 'f') && type || ends_with(type, '_failed') && type",
        "status": "details.response.statusCode",
        "client.ip": "ip",
        "client.user_agent": "user_agent",
        "credential.token_id": "sha256(details.request.auth.credentials.jti)",
        "session": "session_id",
        "attributes.tenant": "tenant_name",
    },
    values={
        "effect": {
            "get": "read",
            "delete": "delete",
            **dict.fromkeys(("post", "put", "patch"), "admin"),
            "*": "unknown",
        }
    },
)
"""Auth0's tenant logs: of its API, an export or a log stream."""

AUDIT_LOG_PRESETS: Mapping[str, MappingSpec] = {
    "aws-cloudtrail": AWS_CLOUDTRAIL,
    "okta": OKTA,
    "auth0": AUTH0,
    "gcp-audit": GCP_AUDIT,
    "google-workspace": GOOGLE_WORKSPACE,
    "ocsf": OCSF,
    **AGENT_TRACE_PRESETS,
    "entra-signin": ENTRA_SIGN_IN,
    "entra-signin-table": ENTRA_SIGN_IN_TABLE,
    "entra-audit": ENTRA_AUDIT,
    "github-audit": GITHUB_AUDIT,
    "kubernetes-audit": KUBERNETES_AUDIT,
}
