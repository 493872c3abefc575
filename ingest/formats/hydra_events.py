"""Events of Ory Hydra: lines of its JSON log, and the events that it puts on OpenTelemetry spans.

The log of a failed token request is two lines: one with the error, one of the request with its status. The first is
taken, and of successes the second. Before version 25.4.10 lines also say `audience`, which changes nothing here.

The log names no client. Lines become events only where a mapping says who called (`agent.id`), for example from a
header that the proxy in front of Hydra sets; the span events and the token hook do name it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..errors import MalformedEvent
from .log_lines import decode_object, shipper_text, split_records
from .record_mapping import MappingSpec, UnpackedRecord

HYDRA_DENIED_ERRORS = (
    "access_denied",
    "consent_required",
    "interaction_required",
    "invalid_client",
    "invalid_grant",
    "invalid_scope",
    "invalid_token",
    "login_required",
    "request_forbidden",
    "request_unauthorized",
    "token_inactive",
    "unauthorized_client",
)
"""OAuth errors by which the server refuses; every other is a fault of the request or of the server."""

_OUTCOMES = {"success": "success", **dict.fromkeys(HYDRA_DENIED_ERRORS, "denied"), "*": "error"}
_PATHS = {
    "/oauth2/token": "token.request",
    "/oauth2/revoke": "token.revoke",
    "/oauth2/introspect": "token.introspect",
    "/admin/oauth2/introspect": "token.introspect",
}
_PATH = "http_request.path"
_HOOK = "contains(error.debug || '', 'oken hook')"
_GRANT_REFUSED = "not allowed to use authorization grant"
"""Of a reason: what a client hears whose grants our actuator took. The record does not say who took them."""
_HOOK_DOWN = f"({_HOOK} || starts_with(error.debug || '', 'Unable to execute HTTP Request'))"
_REFUSED_BY_US = (
    f"(error.message == 'access_denied' && {_HOOK}"
    f" || error.message == 'unauthorized_client' && contains(error.reason || '', '{_GRANT_REFUSED}'))"
)
_UNANSWERED_BY_US = f"(error.message == 'server_error' && {_HOOK_DOWN})"

HYDRA_LOG_MAPPING = MappingSpec(
    # Introspection logs an error for every dead token: an answer, and a fault of nobody who asks.
    when=f"contains(`{json.dumps(list(_PATHS))}`, {_PATH} || '')"
    f" && (error && !contains({_PATH}, 'introspect')"
    " || msg == 'completed handling request' && http_response.status < `400`)",
    anonymous="skip",
    members={
        "time": "time",
        "agent.id": "client_id",
        "agent.self_asserted": "error.message == 'invalid_client' || null",
        "type": _PATH,
        "action": _PATH,
        "outcome": "error.message || 'success'",
        "status": "error.status_code || http_response.status",
        "caused_by": f"({_REFUSED_BY_US} || {_UNANSWERED_BY_US}) && 'trustwatch'",
        "error": f"{_REFUSED_BY_US} && 'revoked_by_trustwatch' || {_UNANSWERED_BY_US} && 'trustwatch_unavailable'"
        " || error.message",
        "bytes_out": "http_response.size",
        "duration_ms": "scale(http_response.took, `0.000001`)",
        "client.ip": "host(http_request.remote)",
        "client.user_agent": 'http_request.headers."user-agent"',
        "attributes.reason": "error.reason",
    },
    values={"type": _PATHS, "action": _PATHS, "outcome": _OUTCOMES},
)
"""Lines of the log about tokens."""


def unpack_hydra_log(value: bytes) -> Iterator[UnpackedRecord]:
    """Lines of the log, or a log shipper's records of them. Lines that are no JSON, as the banner, are skipped."""
    for raw in split_records(value):
        if raw.lstrip()[:1] != b"{":
            yield UnpackedRecord(raw, None)
            continue
        try:
            record = decode_object(raw)
            text = None if "http_request" in record else shipper_text(record)
            if text is not None and text.lstrip()[:1] == "{":
                record = decode_object(text.encode(errors="surrogatepass"))
        except MalformedEvent as error:
            yield UnpackedRecord(raw, error)
        else:
            yield UnpackedRecord(raw, record, "log")


HYDRA_EVENT_TYPES = {
    "OAuth2AccessTokenIssued": "token.request",
    "OAuth2TokenExchangeError": "token.request",
    "OAuth2AccessTokenRevoked": "token.revoke",
    "OAuth2ClientCreated": "client.register",
    "OAuth2ConsentAccepted": "approval",
    "OAuth2ConsentRejected": "approval",
    "OAuth2ConsentRevoked": "token.revoke",
    "OAuth2DeviceUserCodeAccepted": "approval",
}
"""Our type by the name of a span event. Of the others, refresh and ID tokens come with an access token, logins are a
person's, an inspection names whose token was looked at, not who looked, and a client is changed and deleted by an
administrator or by us: that must not count as something the client did."""

HYDRA_GRANT_TYPES = {
    "refresh_token": "token.refresh",
    "urn:ietf:params:oauth:grant-type:token-exchange": "token.exchange",
}

_TYPES = {**HYDRA_EVENT_TYPES, **HYDRA_GRANT_TYPES}
_TYPE = (
    f"name == 'OAuth2AccessTokenIssued' && contains(`{json.dumps(list(HYDRA_GRANT_TYPES))}`, "
    "attributes.OAuth2GrantType || '') && attributes.OAuth2GrantType || name"
)
_REASON = "attributes.ErrorReason"
_FAILED = "name == 'OAuth2TokenExchangeError'"
# Hydra 2.3 names the client only where the hook refused or failed, and no reason; later versions give the hint of the
# error, which is this one for `access_denied`.
_BY_HOOK = (
    f"(!({_REASON}) || contains({_REASON}, 'oken hook')"
    f" || starts_with({_REASON}, 'Make sure that the request you are making is valid'))"
)

HYDRA_SPAN_EVENT_MAPPING = MappingSpec(
    anonymous="skip",
    time_format="ns",
    members={
        "id": "id",
        "time": "time",
        "agent.id": "attributes.OAuth2ClientID",
        "principal.id": "attributes.OAuth2Subject != attributes.OAuth2ClientID && attributes.OAuth2Subject",
        "type": _TYPE,
        "action": _TYPE,
        "outcome": f"{_FAILED} && failed && 'error' || ({_FAILED} || name == 'OAuth2ConsentRejected') && 'denied'"
        " || 'success'",
        "caused_by": f"{_FAILED} && (failed && {_BY_HOOK} || !failed && ({_BY_HOOK}"
        f" || contains({_REASON}, '{_GRANT_REFUSED}'))) && 'trustwatch'",
        "error": f"{_FAILED} && (failed && {_BY_HOOK} && 'trustwatch_unavailable'"
        f" || ({_BY_HOOK} || contains({_REASON}, '{_GRANT_REFUSED}')) && 'revoked_by_trustwatch' || {_REASON})",
        "client.ip": "name != 'OAuth2ClientCreated' && host(attributes.ClientIP) || null",
        "trace_id": "trace_id",
        "attributes.event": "name",
        "attributes.grant_type": "attributes.OAuth2GrantType",
        "attributes.token_format": "attributes.OAuth2TokenFormat",
    },
    values={"type": _TYPES, "action": _TYPES},
)
"""Events on spans of Hydra (OTLP)."""
