"""Okta: the token inline hook of a custom authorization server.

Okta can deny (an `error`), shorten (300 to 86,400 s) and write claims. It can not leave scopes out. What is to live for
less than 300 s is denied, or lives for 300 s, as `too_short` says. Okta waits 3 s, and issues the token unchanged if it
gets no answer, or any but 200 and 204: it fails open, whatever is set here.
"""

from __future__ import annotations

from ...scoring.policy import Verdict, denied
from ...scoring.policy.verdict import NOT_NARROWED, NOT_SHORTENED
from ..guard import Decided
from .base import (
    Asked,
    HookAnswer,
    Product,
    Unreadable,
    at,
    bounded,
    decoded,
    event,
    json_answer,
    members,
    principal,
    text,
    whole,
)

SHORTEST_S, LONGEST_S = 300, 86_400


class Okta(Product):
    """Okta's token inline hook."""

    unchanged = HookAnswer(204)

    def read(self, body: bytes) -> Asked:
        """The agent is the client."""
        data = decoded(body).get("data")
        protocol, access = at(data, "context", "protocol"), at(data, "access")
        asked = at(protocol, "request")
        grant = text(at(asked, "grant_type")) or text(at(asked, "response_type")) or "unknown"
        client = at(protocol, "client", "id") or at(asked, "client_id")
        if access is not None and type(access) is not dict:
            raise Unreadable("data.access is no object")
        scopes = list(members(at(access, "scopes"))) or text(at(asked, "scope")).split()
        question = self.question({"data": data}, client, scopes, grant, at(access, "claims", "act"))
        ip = text(at(data, "context", "request", "ipAddress"))
        audience = text(at(access, "claims", "aud"))
        lifetime_s = whole(at(access, "token", "lifetime", "expiration"))
        more = event(
            principal=principal(at(data, "context", "user", "id"), question.agent_id),
            client={"ip": bounded(ip)} if ip else None,
            session=bounded(text(at(data, "context", "session", "id"))),
            resource={"audience": bounded(audience)} if audience else None,
        )
        return Asked(question, bounded(grant), access, more, lifetime_s)

    def fit(self, asked: Asked, verdict: Verdict) -> Verdict:
        """Scopes can not be left out, and no token lives for less than SHORTEST_S."""
        if verdict.narrowed:
            return denied(verdict, NOT_NARROWED)
        ceiling = verdict.max_token_lifetime_s
        if (
            ceiling is not None
            and ceiling < SHORTEST_S
            and self.settings.too_short == "deny"
            and asked.data is not None
        ):
            return denied(verdict, NOT_SHORTENED)
        return verdict

    def render(self, asked: Asked, decided: Decided) -> HookAnswer:
        """Commands for the access token, an error, or nothing."""
        if not decided.verdict.allow:
            return self.refused(decided.verdict.reason)
        if asked.data is None:  # an ID token alone: it opens nothing
            return self.unchanged
        patch = []
        lifetime_s = self.lifetime_s(asked, decided.verdict)
        if lifetime_s != asked.lifetime_s:
            patch.append({"op": "replace", "path": "/token/lifetime/expiration", "value": lifetime_s})
        known = members(at(asked.data, "claims"))
        for name, value in self.claims(decided).items():
            patch.append({"op": "replace" if name in known else "add", "path": f"/claims/{name}", "value": value})
        if not patch:
            return self.unchanged
        return json_answer(200, {"commands": [{"type": "com.okta.access.patch", "value": patch}]})

    def lifetime_s(self, asked: Asked, verdict: Verdict) -> int | None:
        """Never longer than the token would live, and nothing that Okta refuses."""
        ceiling = verdict.max_token_lifetime_s
        if ceiling is None:
            return asked.lifetime_s
        ceiling = min(max(ceiling, SHORTEST_S), LONGEST_S)
        return ceiling if asked.lifetime_s is None else min(ceiling, asked.lifetime_s)

    def refused(self, reason: str) -> HookAnswer:
        """`server_error` at the token endpoint, with this summary as its description."""
        return json_answer(200, {"error": {"errorSummary": f"access denied: {reason}"}})

    def unauthenticated(self) -> HookAnswer:
        """Okta writes it to its system log, and issues the token unchanged."""
        return json_answer(401, {"error": {"errorSummary": "the hook's secret is missing or wrong"}})
