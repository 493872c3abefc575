"""Hooks of authorization servers: the requests that each product sends, and the answers it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from trustwatch.scoring.policy.access_evaluation import NOT_NARROWED, NOT_SHORTENED, Verdict, deny

from ..decision_point import AccessDecision, check_name_length, text_or_empty
from .hook_adapter import (
    REFRESH_GRANT,
    HookAdapter,
    HookResponse,
    ParsedHookRequest,
    UnreadableHookRequest,
    decode_json_object,
    json_hook_response,
    list_or_empty,
    member_at,
    object_or_empty,
    principal_member,
    whole_seconds,
    without_empty_members,
)

RawMembers = dict[str, msgspec.Raw]


class _HydraClaims(msgspec.Struct):
    ext: RawMembers | None = None


class _HydraIdToken(msgspec.Struct):
    id_token_claims: _HydraClaims | None = None


class _HydraSession(msgspec.Struct):
    id_token: _HydraIdToken | None = None
    extra: RawMembers | None = None


class _HydraBody(msgspec.Struct):
    session: _HydraSession


class HydraHook(HookAdapter):
    """Ory Hydra: `oauth2.token_hook` (every grant) and its forerunner `oauth2.refresh_token_hook`.

    Hydra can deny (403) and write claims (200, which replaces the session's claims: what came is given back with
    ours). It cannot shorten a token here, `exp` is reserved, nor remove scopes, so a request that may have only some
    of its scopes is denied. Anything but 200, 204 and 403 is `server_error` to the client, and 5xx is retried while the
    client waits, so we never answer with one.
    """

    unchanged_response = HookResponse(204)
    # `server_error` at the token endpoint.
    unauthenticated_response = json_hook_response(401, {"error": "unauthorized"})

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the client: with client credentials the session names no other party."""
        data = decode_json_object(body)
        token_request = member_at(data, "request") or member_at(data, "requester")  # the older hook calls it so
        # What the client wrote, and as Hydra took it apart: it splits at blanks, and so do we.
        grant_texts = [
            *list_or_empty(member_at(token_request, "payload", "grant_type")),
            *list_or_empty(member_at(token_request, "grant_types")),
        ]
        grants = [grant for text in grant_texts for grant in text_or_empty(text).split()]
        grant = REFRESH_GRANT if REFRESH_GRANT in grants else next(iter(grants), "unknown")
        granted = list_or_empty(member_at(token_request, "granted_scopes")) or list_or_empty(
            member_at(token_request, "requested_scopes")
        )
        session = member_at(data, "session")
        question = self.access_request(
            data, member_at(token_request, "client_id"), granted, grant, member_at(session, "extra", "act")
        )
        audience = [
            text_or_empty(name)
            for name in list_or_empty(member_at(token_request, "granted_audience"))
            if text_or_empty(name)
        ]
        subject = member_at(session, "id_token", "subject") or member_at(session, "id_token", "id_token_claims", "sub")
        more = without_empty_members(
            principal=principal_member(subject, question.agent_id),
            resource={"audience": check_name_length(audience[0])} if audience else None,
        )
        return ParsedHookRequest(question, check_name_length(grant), self._decode_session(body), more)

    def deny_unsupported(self, _: ParsedHookRequest, verdict: Verdict) -> Verdict:
        """Scopes cannot be left out; a lifetime can be shortened, by the admin API and not here."""
        return deny(verdict, NOT_NARROWED) if verdict.narrowed else verdict

    def render_response(self, parsed: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        """204 and 200 issue the token, 403 does not."""
        if not decided.verdict.allow:
            return self.denial_response(decided.verdict.reason)
        claims = self.risk_claims(decided)
        session: _HydraSession = parsed.data
        if not claims:
            return self.unchanged_response
        ids = session.id_token and session.id_token.id_token_claims
        return json_hook_response(
            200, {"session": {"access_token": {**(session.extra or {}), **claims}, "id_token": (ids and ids.ext) or {}}}
        )

    def denial_response(self, reason: str) -> HookResponse:
        """`access_denied` at the token endpoint; Hydra forwards nothing of the body."""
        return json_hook_response(403, {"error": "access_denied", "reason": reason})

    @staticmethod
    def _decode_session(body: bytes) -> _HydraSession:
        try:
            return msgspec.json.decode(body, type=_HydraBody).session
        except (msgspec.ValidationError, RecursionError):
            raise UnreadableHookRequest("the body holds no session with claims") from None


MIN_LIFETIME_S, MAX_LIFETIME_S = 300, 86_400


class OktaHook(HookAdapter):
    """Okta: the token inline hook of a custom authorization server.

    Okta can deny (an `error`), shorten (300 to 86,400 s) and write claims. It cannot leave scopes out. A token that
    must live for less than 300 s is denied. Okta waits 3 s, and issues the token unchanged if it gets no answer, or any
    but 200 and 204: it fails open, regardless of the settings here.
    """

    unchanged_response = HookResponse(204)
    # Okta writes it to its system log, and issues the token unchanged.
    unauthenticated_response = json_hook_response(
        401, {"error": {"errorSummary": "the hook's secret is missing or wrong"}}
    )

    def read_request(self, body: bytes) -> ParsedHookRequest:
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
            raise UnreadableHookRequest("data.access is not an object")
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
        """Scopes cannot be left out, and no token lives for less than MIN_LIFETIME_S."""
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


SCOPES_POINTER, CLAIMS_POINTER = "/accessToken/scopes/", "/accessToken/claims/"
ACCESS_EXPIRES_POINTER, REFRESH_EXPIRES_POINTER = "/accessToken/claims/expires_in", "/refreshToken/claims/expires_in"

TokenOperation = dict[str, Any]


class Wso2Hook(HookAdapter):
    """WSO2 Identity Server and Asgardeo: the pre-issue access token action.

    It can deny (`FAILED`), shorten access and refresh tokens, leave scopes out and write claims, as far as the
    request's `allowedOperations` go. WSO2 ignores any other operation, so a verdict that needs a missing one is denied
    here. An error or no answer is `server_error` to the client: WSO2 fails closed.
    """

    unchanged_response = json_hook_response(200, {"actionStatus": "SUCCESS", "operations": []})
    # The client gets `server_error`.
    unauthenticated_response = json_hook_response(
        401,
        {
            "actionStatus": "ERROR",
            "errorMessage": "unauthorized",
            "errorDescription": "the secret of the action is missing or wrong",
        },
    )

    def read_request(self, body: bytes) -> ParsedHookRequest:
        data = decode_json_object(body)
        happened = member_at(data, "event")
        token_request, token = member_at(happened, "request"), member_at(happened, "accessToken")
        grant = text_or_empty(member_at(token_request, "grantType")) or "unknown"
        claims = _claims_by_name(token)
        scopes = list_or_empty(member_at(token, "scopes")) or list_or_empty(member_at(token_request, "scopes"))
        question = self.access_request(data, member_at(token_request, "clientId"), scopes, grant, claims.get("act"))
        audience = text_or_empty((list_or_empty(claims.get("aud")) or [""])[0])
        more = without_empty_members(
            principal=principal_member(member_at(happened, "user", "id"), question.agent_id),
            resource={"audience": check_name_length(audience)} if audience else None,
        )
        return ParsedHookRequest(
            question, check_name_length(grant), data, more, whole_seconds(claims.get("expires_in"))
        )

    def deny_unsupported(self, parsed: ParsedHookRequest, verdict: Verdict) -> Verdict:
        allowed = _AllowedOperations(parsed.data)
        if verdict.narrowed and not allowed("remove", SCOPES_POINTER):
            return deny(verdict, NOT_NARROWED)
        ceiling = verdict.max_token_lifetime_s
        if (
            ceiling is not None
            and _exceeds_ceiling(parsed.lifetime_s, ceiling)
            and not allowed("replace", ACCESS_EXPIRES_POINTER)
        ):
            return deny(verdict, NOT_SHORTENED)
        return verdict

    def granted_lifetime_s(self, parsed: ParsedHookRequest, verdict: Verdict) -> int | None:
        """The ceiling, never longer than the token would live."""
        ceiling = verdict.max_token_lifetime_s
        return parsed.lifetime_s if ceiling is None or not _exceeds_ceiling(parsed.lifetime_s, ceiling) else ceiling

    def render_response(self, parsed: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        verdict = decided.verdict
        if not verdict.allow:
            return self.denial_response(verdict.reason)
        allowed = _AllowedOperations(parsed.data)
        token = member_at(parsed.data, "event", "accessToken")
        operations = list(_shorten_lifetimes(parsed, verdict, allowed))
        if verdict.scopes is not None:
            given = list_or_empty(member_at(token, "scopes"))
            removed = [index for index, scope in enumerate(given) if scope not in verdict.scopes]
            # By index, the last first, so that no removal moves the index of another.
            operations += [{"op": "remove", "path": f"{SCOPES_POINTER}{index}"} for index in reversed(removed)]
        existing = _claims_by_name(token)
        for name, value in self.risk_claims(decided).items():
            # A claim that already exists, as after a refresh, can only be replaced.
            if name in existing and allowed("replace", CLAIMS_POINTER + name):
                operations.append({"op": "replace", "path": CLAIMS_POINTER + name, "value": value})
            elif name not in existing and allowed("add", CLAIMS_POINTER):
                claim = {"name": name, "value": value}
                operations.append({"op": "add", "path": f"{CLAIMS_POINTER}-", "value": claim})
        return json_hook_response(200, {"actionStatus": "SUCCESS", "operations": operations})

    def denial_response(self, reason: str) -> HookResponse:
        """The client gets `access_denied`, with this description."""
        return json_hook_response(
            200, {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": reason}
        )


class _AllowedOperations:
    """Operations that a request allows, by path; a path that ends in `/` covers all paths below it."""

    def __init__(self, data: Any) -> None:
        self._paths = [
            (text_or_empty(member_at(entry, "op")), text_or_empty(path))
            for entry in list_or_empty(member_at(data, "allowedOperations"))
            for path in list_or_empty(member_at(entry, "paths"))
        ]

    def __call__(self, operation: str, path: str) -> bool:
        return any(
            operation == op and (path == allowed_path or (allowed_path.endswith("/") and path.startswith(allowed_path)))
            for op, allowed_path in self._paths
            if allowed_path
        )


def _claims_by_name(token: Any) -> dict[str, Any]:
    return {
        text_or_empty(member_at(claim, "name")): member_at(claim, "value")
        for claim in list_or_empty(member_at(token, "claims"))
    }


def _exceeds_ceiling(lifetime_s: int | None, ceiling: int) -> bool:
    """Return whether a lifetime is above the ceiling; an unstated lifetime counts as above."""
    return lifetime_s is None or lifetime_s > ceiling


def _shorten_lifetimes(
    parsed: ParsedHookRequest, verdict: Verdict, allowed: _AllowedOperations
) -> Iterator[TokenOperation]:
    """Shorten access tokens to the ceiling, and refresh tokens too if a refresh would be refused anyway."""
    ceiling = verdict.max_token_lifetime_s
    if ceiling is None:
        return
    if _exceeds_ceiling(parsed.lifetime_s, ceiling):
        yield {"op": "replace", "path": ACCESS_EXPIRES_POINTER, "value": ceiling}
    refresh = member_at(parsed.data, "event", "refreshToken")
    if refresh is None or verdict.refresh_allowed or not allowed("replace", REFRESH_EXPIRES_POINTER):
        return
    if _exceeds_ceiling(whole_seconds(_claims_by_name(refresh).get("expires_in")), ceiling):
        yield {"op": "replace", "path": REFRESH_EXPIRES_POINTER, "value": ceiling}


DENIED_STATUS = 403


class ZitadelHook(HookAdapter):
    """ZITADEL: Actions v2, a `restCall` target on the function `preaccesstoken`.

    It can deny (`forwardedStatusCode`) and add claims. It can neither shorten a token nor leave scopes out, and names
    neither client, grant nor scopes: the agent is the (machine) user, and what needs them is the same for all its
    requests. The target's `interruptOnError` controls whether ZITADEL issues tokens if it gets an error or no answer.
    """

    unchanged_response = json_hook_response(200, {})
    # An error: `interruptOnError` of ZITADEL decides whether it issues the token.
    unauthenticated_response = json_hook_response(401, {"error": "the signature is missing, wrong or too old"})

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the user, unless the settings specify another member."""
        data = decode_json_object(body)
        function = text_or_empty(data.get("function")).rpartition("/")[2] or "unknown"
        act = member_at(data, "userinfo", "act")
        question = self.access_request(data, member_at(data, "user", "id"), (), function, act)
        return ParsedHookRequest(question, check_name_length(function), None, {})

    def render_response(self, _: ParsedHookRequest, decided: AccessDecision) -> HookResponse:
        """Claims, or a denial, which is an answer of status 200 too."""
        if not decided.verdict.allow:
            return self.denial_response(decided.verdict.reason)
        claims = [{"key": name, "value": value} for name, value in self.risk_claims(decided).items()]
        return json_hook_response(200, {"append_claims": claims}) if claims else self.unchanged_response

    def denial_response(self, reason: str) -> HookResponse:
        """The client gets this status and message."""
        return json_hook_response(
            200, {"forwardedStatusCode": DENIED_STATUS, "forwardedErrorMessage": f"access denied: {reason}"}
        )


HOOK_ADAPTERS: dict[str, type[HookAdapter]] = {
    "hydra": HydraHook,
    "okta": OktaHook,
    "wso2": Wso2Hook,
    "zitadel": ZitadelHook,
}
