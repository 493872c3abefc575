"""WSO2 Identity Server and Asgardeo: the pre-issue access token action.

It can deny (`FAILED`), shorten access and refresh tokens, leave scopes out and write claims, as far as the request's
`allowedOperations` go: an operation that is not among them is ignored there, so what needs one that is missing is
denied here. An error or no answer is `server_error` to the client: WSO2 fails closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...scoring.policy import Verdict, denied
from ...scoring.policy.verdict import NOT_NARROWED, NOT_SHORTENED
from ..guard import Decided
from .base import Asked, HookAnswer, Product, at, bounded, decoded, event, json_answer, listed, principal, text, whole

SCOPES, CLAIMS = "/accessToken/scopes/", "/accessToken/claims/"
EXPIRES, REFRESH_EXPIRES = "/accessToken/claims/expires_in", "/refreshToken/claims/expires_in"

Operation = dict[str, Any]


class Wso2(Product):
    """WSO2's pre-issue access token action."""

    unchanged = json_answer(200, {"actionStatus": "SUCCESS", "operations": []})

    def read(self, body: bytes) -> Asked:
        """The agent is the client."""
        data = decoded(body)
        happened = at(data, "event")
        asked, token = at(happened, "request"), at(happened, "accessToken")
        grant = text(at(asked, "grantType")) or "unknown"
        claims = _claims(token)
        scopes = listed(at(token, "scopes")) or listed(at(asked, "scopes"))
        question = self.question(data, at(asked, "clientId"), scopes, grant, claims.get("act"))
        audience = text((listed(claims.get("aud")) or [""])[0])
        more = event(
            principal=principal(at(happened, "user", "id"), question.agent_id),
            resource={"audience": bounded(audience)} if audience else None,
        )
        return Asked(question, bounded(grant), data, more, whole(claims.get("expires_in")))

    def fit(self, asked: Asked, verdict: Verdict) -> Verdict:
        """A denial of what would need an operation that is not allowed."""
        allowed = _Allowed(asked.data)
        if verdict.narrowed and not allowed("remove", SCOPES):
            return denied(verdict, NOT_NARROWED)
        ceiling = verdict.max_token_lifetime_s
        if ceiling is not None and _longer(asked.lifetime_s, ceiling) and not allowed("replace", EXPIRES):
            return denied(verdict, NOT_SHORTENED)
        return verdict

    def lifetime_s(self, asked: Asked, verdict: Verdict) -> int | None:
        """Never longer than the token would live."""
        ceiling = verdict.max_token_lifetime_s
        return asked.lifetime_s if ceiling is None or not _longer(asked.lifetime_s, ceiling) else ceiling

    def render(self, asked: Asked, decided: Decided) -> HookAnswer:
        """Operations, or a failure."""
        verdict = decided.verdict
        if not verdict.allow:
            return self.refused(verdict.reason)
        allowed = _Allowed(asked.data)
        token = at(asked.data, "event", "accessToken")
        operations = [
            *_shorter(asked, verdict, allowed),
            *_without(listed(at(token, "scopes")), verdict.scopes),
            *_written(self.claims(decided), _claims(token), allowed),
        ]
        return json_answer(200, {"actionStatus": "SUCCESS", "operations": operations})

    def refused(self, reason: str) -> HookAnswer:
        """The client gets `access_denied`, with this description."""
        return json_answer(
            200, {"actionStatus": "FAILED", "failureReason": "access_denied", "failureDescription": reason}
        )

    def unauthenticated(self) -> HookAnswer:
        """The client gets `server_error`."""
        content = {"actionStatus": "ERROR", "errorMessage": "unauthorized"}
        return json_answer(401, {**content, "errorDescription": "the secret of the action is missing or wrong"})


class _Allowed:
    """Which operations a request allows; a path that ends in `/` stands for all below it."""

    def __init__(self, data: Any) -> None:
        self._paths = [
            (text(at(one, "op")), text(path))
            for one in listed(at(data, "allowedOperations"))
            for path in listed(at(one, "paths"))
        ]

    def __call__(self, operation: str, path: str) -> bool:
        return any(
            operation == op and (path == known or (known.endswith("/") and path.startswith(known)))
            for op, known in self._paths
            if known
        )


def _claims(token: Any) -> dict[str, Any]:
    return {text(at(claim, "name")): at(claim, "value") for claim in listed(at(token, "claims"))}


def _longer(lifetime_s: int | None, ceiling: int) -> bool:
    """Whether a lifetime is above the ceiling; one that is not told may be."""
    return lifetime_s is None or lifetime_s > ceiling


def _shorter(asked: Asked, verdict: Verdict, allowed: _Allowed) -> Iterator[Operation]:
    """Access tokens live as long as the ceiling; refresh tokens too, where a refresh would be refused anyway."""
    ceiling = verdict.max_token_lifetime_s
    if ceiling is None:
        return
    if _longer(asked.lifetime_s, ceiling):
        yield {"op": "replace", "path": EXPIRES, "value": ceiling}
    refresh = at(asked.data, "event", "refreshToken")
    if refresh is None or verdict.refresh_allowed or not allowed("replace", REFRESH_EXPIRES):
        return
    if _longer(whole(_claims(refresh).get("expires_in")), ceiling):
        yield {"op": "replace", "path": REFRESH_EXPIRES, "value": ceiling}


def _without(given: list[Any], kept: Iterable[str] | None) -> list[Operation]:
    """Removes scopes by their index, the last first, so that no removal moves the index of another."""
    if kept is None:
        return []
    left = set(kept)
    places = [place for place, scope in enumerate(given) if scope not in left]
    return [{"op": "remove", "path": f"{SCOPES}{place}"} for place in reversed(places)]


def _written(claims: dict[str, Any], known: dict[str, Any], allowed: _Allowed) -> Iterator[Operation]:
    """A claim that is there already, as after a refresh, can only be replaced."""
    for name, value in claims.items():
        if name in known and allowed("replace", CLAIMS + name):
            yield {"op": "replace", "path": CLAIMS + name, "value": value}
        elif name not in known and allowed("add", CLAIMS):
            yield {"op": "add", "path": f"{CLAIMS}-", "value": {"name": name, "value": value}}
