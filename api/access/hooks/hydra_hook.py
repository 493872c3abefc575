"""Ory Hydra: `oauth2.token_hook` (every grant) and its forerunner `oauth2.refresh_token_hook`.

Hydra can deny (403) and write claims (200, which replaces the session's claims: what came is given back with ours).
It can not shorten a token here, `exp` is reserved, nor leave scopes out, so a request that may have only some of its
scopes is denied. Anything but 200, 204 and 403 is `server_error` to the client, and 5xx is retried while the client
waits: no answer of ours is one.
"""

from __future__ import annotations

import msgspec

from trustwatch.scoring.policy.access_evaluation import NOT_NARROWED, Verdict, deny

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
    principal_member,
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
    """The claims of a session, byte by byte as they came."""

    session: _HydraSession


class HydraHook(HookAdapter):
    """Ory Hydra's token hook."""

    unchanged_response = HookResponse(204)

    def read_request(self, body: bytes) -> ParsedHookRequest:
        """The agent is the client: with client credentials the session names nobody else."""
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
        """Scopes can not be left out; a lifetime can be shortened, by the admin API and not here."""
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
        """`access_denied` at the token endpoint; Hydra passes none of the body on."""
        return json_hook_response(403, {"error": "access_denied", "reason": reason})

    def unauthenticated_response(self) -> HookResponse:
        """`server_error` at the token endpoint."""
        return json_hook_response(401, {"error": "unauthorized"})

    @staticmethod
    def _decode_session(body: bytes) -> _HydraSession:
        try:
            return msgspec.json.decode(body, type=_HydraBody).session
        except (msgspec.ValidationError, RecursionError):
            raise UnreadableHookRequest("the body holds no session with claims") from None
