"""WSO2 Identity Server and Asgardeo: the pre-issue access token action.

It can deny (`FAILED`), shorten access and refresh tokens, leave scopes out and write claims, as far as the request's
`allowedOperations` go: an operation that is not among them is ignored there, so what needs one that is missing is
denied here. An error or no answer is `server_error` to the client: WSO2 fails closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trustwatch.scoring.policy.access_evaluation import NOT_NARROWED, NOT_SHORTENED, Verdict, deny

from ..decision_point import AccessDecision, check_name_length, text_or_empty
from .hook_adapter import (
    HookAdapter,
    HookResponse,
    ParsedHookRequest,
    decode_json_object,
    json_hook_response,
    list_or_empty,
    member_at,
    principal_member,
    whole_seconds,
    without_empty_members,
)

SCOPES_POINTER, CLAIMS_POINTER = "/accessToken/scopes/", "/accessToken/claims/"
ACCESS_EXPIRES_POINTER, REFRESH_EXPIRES_POINTER = "/accessToken/claims/expires_in", "/refreshToken/claims/expires_in"

TokenOperation = dict[str, Any]


class Wso2Hook(HookAdapter):
    """WSO2's pre-issue access token action."""

    unchanged_response = json_hook_response(200, {"actionStatus": "SUCCESS", "operations": []})

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the client."""
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
        """A denial of what would need an operation that is not allowed."""
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
        """Operations, or a failure."""
        verdict = decided.verdict
        if not verdict.allow:
            return self.denial_response(verdict.reason)
        allowed = _AllowedOperations(parsed.data)
        token = member_at(parsed.data, "event", "accessToken")
        operations = [
            *_shorten_lifetimes(parsed, verdict, allowed),
            *_remove_scopes(list_or_empty(member_at(token, "scopes")), verdict.scopes),
            *_write_claims(self.risk_claims(decided), _claims_by_name(token), allowed),
        ]
        return json_hook_response(200, {"actionStatus": "SUCCESS", "operations": operations})

    def denial_response(self, reason: str) -> HookResponse:
        """The client gets `access_denied`, with this description."""
        return json_hook_response(
            200, {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": reason}
        )

    def unauthenticated_response(self) -> HookResponse:
        """The client gets `server_error`."""
        content = {"actionStatus": "ERROR", "errorMessage": "unauthorized"}
        return json_hook_response(401, {**content, "errorDescription": "the secret of the action is missing or wrong"})


class _AllowedOperations:
    """Operations that a request allows, by path; a path that ends in `/` stands for all below it."""

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
    """True if a lifetime is above the ceiling; one that the request does not state counts as above."""
    return lifetime_s is None or lifetime_s > ceiling


def _shorten_lifetimes(
    parsed: ParsedHookRequest, verdict: Verdict, allowed: _AllowedOperations
) -> Iterator[TokenOperation]:
    """Access tokens live as long as the ceiling; refresh tokens too, where a refresh would be refused anyway."""
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


def _remove_scopes(given: list[Any], kept: Iterable[str] | None) -> list[TokenOperation]:
    """Removes scopes by their index, the last first, so that no removal moves the index of another."""
    if kept is None:
        return []
    left = set(kept)
    places = [index for index, scope in enumerate(given) if scope not in left]
    return [{"op": "remove", "path": f"{SCOPES_POINTER}{index}"} for index in reversed(places)]


def _write_claims(
    claims: dict[str, Any], existing: dict[str, Any], allowed: _AllowedOperations
) -> Iterator[TokenOperation]:
    """A claim that is there already, as after a refresh, can only be replaced."""
    for name, value in claims.items():
        if name in existing and allowed("replace", CLAIMS_POINTER + name):
            yield {"op": "replace", "path": CLAIMS_POINTER + name, "value": value}
        elif name not in existing and allowed("add", CLAIMS_POINTER):
            yield {"op": "add", "path": f"{CLAIMS_POINTER}-", "value": {"name": name, "value": value}}
