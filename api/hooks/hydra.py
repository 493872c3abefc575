"""Ory Hydra: `oauth2.token_hook` (every grant) and its forerunner `oauth2.refresh_token_hook`.

Hydra can deny (403) and write claims (200, which replaces the session's claims: what came is given back with ours).
It can not shorten a token here, `exp` is reserved, nor leave scopes out, so a request that may have only some of its
scopes is denied. Anything but 200, 204 and 403 is `server_error` to the client, and 5xx is retried while the client
waits: no answer of ours is one.
"""

from __future__ import annotations

import msgspec

from ...scoring.policy import Verdict, denied
from ...scoring.policy.verdict import NOT_NARROWED
from ..guard import Decided
from .base import (
    REFRESH,
    Asked,
    HookAnswer,
    Product,
    Unreadable,
    at,
    bounded,
    decoded,
    event,
    json_answer,
    listed,
    principal,
    text,
)

Raws = dict[str, msgspec.Raw]


class _Claims(msgspec.Struct):
    ext: Raws | None = None


class _IdToken(msgspec.Struct):
    id_token_claims: _Claims | None = None


class _Session(msgspec.Struct):
    id_token: _IdToken | None = None
    extra: Raws | None = None


class _Body(msgspec.Struct):
    """The claims of a session, byte by byte as they came."""

    session: _Session


class Hydra(Product):
    """Ory Hydra's token hook."""

    unchanged = HookAnswer(204)

    def read(self, body: bytes) -> Asked:
        """The agent is the client: with client credentials the session names nobody else."""
        data = decoded(body)
        asked = at(data, "request") or at(data, "requester")  # the older hook calls it so
        # What the client wrote, and as Hydra took it apart: it splits at blanks, and so do we.
        told = [*listed(at(asked, "payload", "grant_type")), *listed(at(asked, "grant_types"))]
        grants = [grant for one in told for grant in text(one).split()]
        grant = REFRESH if REFRESH in grants else next(iter(grants), "unknown")
        granted = listed(at(asked, "granted_scopes")) or listed(at(asked, "requested_scopes"))
        session = at(data, "session")
        question = self.question(data, at(asked, "client_id"), granted, grant, at(session, "extra", "act"))
        audience = [text(one) for one in listed(at(asked, "granted_audience")) if text(one)]
        subject = at(session, "id_token", "subject") or at(session, "id_token", "id_token_claims", "sub")
        more = event(
            principal=principal(subject, question.agent_id),
            resource={"audience": bounded(audience[0])} if audience else None,
        )
        return Asked(question, bounded(grant), self._session(body), more)

    def fit(self, _: Asked, verdict: Verdict) -> Verdict:
        """Scopes can not be left out; a lifetime can be shortened, by the admin API and not here."""
        return denied(verdict, NOT_NARROWED) if verdict.narrowed else verdict

    def render(self, asked: Asked, decided: Decided) -> HookAnswer:
        """204 and 200 issue the token, 403 does not."""
        if not decided.verdict.allow:
            return self.refused(decided.verdict.reason)
        claims = self.claims(decided)
        session: _Session = asked.data
        if not claims:
            return self.unchanged
        ids = session.id_token and session.id_token.id_token_claims
        return json_answer(
            200, {"session": {"access_token": {**(session.extra or {}), **claims}, "id_token": (ids and ids.ext) or {}}}
        )

    def refused(self, reason: str) -> HookAnswer:
        """`access_denied` at the token endpoint; Hydra passes none of the body on."""
        return json_answer(403, {"error": "access_denied", "reason": reason})

    def unauthenticated(self) -> HookAnswer:
        """`server_error` at the token endpoint."""
        return json_answer(401, {"error": "unauthorized"})

    @staticmethod
    def _session(body: bytes) -> _Session:
        try:
            return msgspec.json.decode(body, type=_Body).session
        except (msgspec.ValidationError, RecursionError):
            raise Unreadable("the body holds no session with claims") from None
