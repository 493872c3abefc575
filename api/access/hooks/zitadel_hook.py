"""ZITADEL: Actions v2, a `restCall` target on the function `preaccesstoken`.

It can deny (`forwardedStatusCode`) and add claims. It can neither shorten a token nor leave scopes out, and tells
neither client, grant nor scopes: the agent is the (machine) user, and what needs them is the same for all its requests.
The target's `interruptOnError` says whether ZITADEL issues tokens while no answer, or an error, comes.
"""

from __future__ import annotations

from trustwatch.scoring.policy.access_evaluation import Verdict

from ..decision_point import AccessDecision, check_name_length, text_or_empty
from .hook_adapter import (
    HookAdapter,
    HookResponse,
    ParsedHookRequest,
    decode_json_object,
    json_hook_response,
    member_at,
)

DENIED_STATUS = 403


class ZitadelHook(HookAdapter):
    """ZITADEL's Actions v2."""

    unchanged_response = json_hook_response(200, {})

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the user, unless the settings say where else it is."""
        data = decode_json_object(body)
        function = text_or_empty(data.get("function")).rpartition("/")[2] or "unknown"
        act = member_at(data, "userinfo", "act")
        question = self.access_request(data, member_at(data, "user", "id"), (), function, act)
        return ParsedHookRequest(question, check_name_length(function), None, {})

    def deny_unsupported(self, _: ParsedHookRequest, verdict: Verdict) -> Verdict:
        """Without scopes nothing can be narrowed; lifetimes can not be set, so the ceiling is a claim."""
        return verdict

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

    def unauthenticated_response(self) -> HookResponse:
        """An error, with or without which ZITADEL goes on, as `interruptOnError` says."""
        return json_hook_response(401, {"error": "the signature is missing, wrong or too old"})
