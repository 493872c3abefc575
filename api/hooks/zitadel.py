"""ZITADEL: Actions v2, a `restCall` target on the function `preaccesstoken`.

It can deny (`forwardedStatusCode`) and add claims. It can neither shorten a token nor leave scopes out, and tells
neither client, grant nor scopes: the agent is the (machine) user, and what needs them is the same for all its requests.
The target's `interruptOnError` says whether ZITADEL issues tokens while no answer, or an error, comes.
"""

from __future__ import annotations

from ...scoring.policy import Verdict
from ..guard import Decided
from .base import Asked, HookAnswer, Product, at, bounded, decoded, json_answer, text

DENIED = 403


class Zitadel(Product):
    """ZITADEL's Actions v2."""

    unchanged = json_answer(200, {})

    def read(self, body: bytes) -> Asked:
        """The agent is the user, unless the settings say where else it is."""
        data = decoded(body)
        function = text(data.get("function")).rpartition("/")[2] or "unknown"
        act = at(data, "userinfo", "act")
        question = self.question(data, at(data, "user", "id"), (), function, act)
        return Asked(question, bounded(function), None, {})

    def fit(self, _: Asked, verdict: Verdict) -> Verdict:
        """Without scopes nothing can be narrowed; lifetimes can not be set, so the ceiling is the claim's to tell."""
        return verdict

    def render(self, _: Asked, decided: Decided) -> HookAnswer:
        """Claims, or a denial, which is an answer of status 200 too."""
        if not decided.verdict.allow:
            return self.refused(decided.verdict.reason)
        claims = [{"key": name, "value": value} for name, value in self.claims(decided).items()]
        return json_answer(200, {"append_claims": claims}) if claims else self.unchanged

    def refused(self, reason: str) -> HookAnswer:
        """The client gets this status and message."""
        return json_answer(200, {"forwardedStatusCode": DENIED, "forwardedErrorMessage": f"access denied: {reason}"})

    def unauthenticated(self) -> HookAnswer:
        """An error, with or without which ZITADEL goes on, as `interruptOnError` says."""
        return json_answer(401, {"error": "the signature is missing, wrong or too old"})
