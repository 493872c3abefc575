"""Okta: the token inline hook of a custom authorization server.

Okta can deny (an `error`), shorten (300 to 86,400 s) and write claims. It can not leave scopes out. What is to live for
less than 300 s is denied. Okta waits 3 s, and issues the token unchanged if it
gets no answer, or any but 200 and 204: it fails open, whatever is set here.
"""

from __future__ import annotations

from trustwatch.scoring.policy.access_evaluation import NOT_NARROWED, NOT_SHORTENED, Verdict, deny

from ..decision_point import AccessDecision, check_name_length, text_or_empty
from .hook_adapter import (
    HookAdapter,
    HookResponse,
    ParsedHookRequest,
    UnreadableHookRequest,
    decode_json_object,
    json_hook_response,
    member_at,
    object_or_empty,
    principal_member,
    whole_seconds,
    without_empty_members,
)

MIN_LIFETIME_S, MAX_LIFETIME_S = 300, 86_400


class OktaHook(HookAdapter):
    """Okta's token inline hook."""

    unchanged_response = HookResponse(204)

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the client."""
        data = decode_json_object(body).get("data")
        protocol, access = member_at(data, "context", "protocol"), member_at(data, "access")
        token_request = member_at(protocol, "request")
        grant = (
            text_or_empty(member_at(token_request, "grant_type"))
            or text_or_empty(member_at(token_request, "response_type"))
            or "unknown"
        )
        client = member_at(protocol, "client", "id") or member_at(token_request, "client_id")
        if access is not None and type(access) is not dict:
            raise UnreadableHookRequest("data.access is no object")
        scopes = (
            list(object_or_empty(member_at(access, "scopes")))
            or text_or_empty(member_at(token_request, "scope")).split()
        )
        question = self.access_request({"data": data}, client, scopes, grant, member_at(access, "claims", "act"))
        ip = text_or_empty(member_at(data, "context", "request", "ipAddress"))
        audience = text_or_empty(member_at(access, "claims", "aud"))
        lifetime_s = whole_seconds(member_at(access, "token", "lifetime", "expiration"))
        more = without_empty_members(
            principal=principal_member(member_at(data, "context", "user", "id"), question.agent_id),
            client={"ip": check_name_length(ip)} if ip else None,
            session=check_name_length(text_or_empty(member_at(data, "context", "session", "id"))),
            resource={"audience": check_name_length(audience)} if audience else None,
        )
        return ParsedHookRequest(question, check_name_length(grant), access, more, lifetime_s)

    def deny_unsupported(self, parsed: ParsedHookRequest, verdict: Verdict) -> Verdict:
        """Scopes can not be left out, and no token lives for less than MIN_LIFETIME_S."""
        if verdict.narrowed:
            return deny(verdict, NOT_NARROWED)
        ceiling = verdict.max_token_lifetime_s
        if ceiling is not None and ceiling < MIN_LIFETIME_S and parsed.data is not None:
            return deny(verdict, NOT_SHORTENED)
        return verdict

    def render_response(self, parsed: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        """Commands for the access token, an error, or nothing."""
        if not decided.verdict.allow:
            return self.denial_response(decided.verdict.reason)
        if parsed.data is None:  # an ID token alone: it opens nothing
            return self.unchanged_response
        patch = []
        lifetime_s = self.granted_lifetime_s(parsed, decided.verdict)
        if lifetime_s != parsed.lifetime_s:
            patch.append({"op": "replace", "path": "/token/lifetime/expiration", "value": lifetime_s})
        existing_claims = object_or_empty(member_at(parsed.data, "claims"))
        for name, value in self.risk_claims(decided).items():
            patch.append(
                {"op": "replace" if name in existing_claims else "add", "path": f"/claims/{name}", "value": value}
            )
        if not patch:
            return self.unchanged_response
        return json_hook_response(200, {"commands": [{"type": "com.okta.access.patch", "value": patch}]})

    def granted_lifetime_s(self, parsed: ParsedHookRequest, verdict: Verdict) -> int | None:
        """The ceiling, never longer than the token would live, and nothing that Okta refuses."""
        ceiling = verdict.max_token_lifetime_s
        if ceiling is None:
            return parsed.lifetime_s
        ceiling = min(max(ceiling, MIN_LIFETIME_S), MAX_LIFETIME_S)
        return ceiling if parsed.lifetime_s is None else min(ceiling, parsed.lifetime_s)

    def denial_response(self, reason: str) -> HookResponse:
        """`server_error` at the token endpoint, with this summary as its description."""
        return json_hook_response(200, {"error": {"errorSummary": f"access denied: {reason}"}})

    def unauthenticated_response(self) -> HookResponse:
        """Okta writes it to its system log, and issues the token unchanged."""
        return json_hook_response(401, {"error": {"errorSummary": "the hook's secret is missing or wrong"}})
