"""Whose token it is: from verified claims to the question that the guard is asked at every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ...scoring.policy import Question
from ..hooks.base import MAX_SCOPES, TooMuch, actors
from ..settings import GatewayIssuerSettings
from ..tokens import Claims, InvalidToken
from ..tokens.verify import MAX_NAME

CLIENT_CLAIMS = ("client_id", "azp", "cid")


class Holder(NamedTuple):
    """What a token says, read once and remembered with it.

    Attributes:
        question: about its agent; the same at every call, the answer is not.
        bound: bound to a key by DPoP (`cnf.jkt`), so it is worth nothing under `Bearer` (RFC 9449 section 7.1).
        issuer: `iss` of the token, for its revocation.
        encoded: all claims, or members of the issuer's introspection answer, as JSON: a fraction of what objects take,
            and wanted by introspection alone.
    """

    question: Question
    bound: bool
    issuer: str
    encoded: bytes

    def members(self) -> dict[str, Any]:
        """All claims, decoded anew."""
        found: dict[str, Any] = msgspec.json.decode(self.encoded)
        return found


class Holders:
    """Makes holders.

    Args:
        issuers: of the settings.
    """

    def __init__(self, issuers: Iterable[GatewayIssuerSettings]) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}

    def of_claims(self, claims: Claims) -> Holder:
        """The holder of a token that was verified here. Raises InvalidToken."""
        client = claims.client_id or claims.subject
        return self._made(self._issuers[claims.issuer], client, claims.scopes, claims.members)

    def of_answer(self, issuer: str, members: Mapping[str, Any]) -> Holder:
        """The holder of a token that its issuer says is active. Raises InvalidToken where no agent is named."""
        named = next((members[name] for name in CLIENT_CLAIMS if members.get(name) is not None), members.get("sub"))
        given = members.get("scope")
        scopes = frozenset(given.split()) if isinstance(given, str) else frozenset()
        return self._made(self._issuers[issuer], _name(named), scopes, members)

    def _made(
        self, settings: GatewayIssuerSettings, client: str, scopes: frozenset[str], members: Mapping[str, Any]
    ) -> Holder:
        act = members.get("act")
        agent = client if act is None else _actor(act)
        if len(scopes) > MAX_SCOPES:
            raise InvalidToken(f"the token has more than {MAX_SCOPES} scopes")
        try:
            ancestors = actors(act, agent)
        except TooMuch:
            raise InvalidToken("an actor of the token is no name") from None
        question = Question(
            _tenant(settings, members),
            settings.agent_issuer or settings.issuer,
            agent,
            tuple(sorted(scopes)),
            False,
            ancestors,
        )
        confirmation = members.get("cnf")
        bound = isinstance(confirmation, dict) and "jkt" in confirmation
        return Holder(question, bound, settings.issuer, _encoded(members))


def _encoded(members: Mapping[str, Any]) -> bytes:
    """Half a surrogate pair can be written in a token and in no event or log: it must not come further than here."""
    try:
        return msgspec.json.encode(members)
    except (UnicodeEncodeError, RecursionError):
        raise InvalidToken("the token holds text that is no Unicode") from None


def _actor(act: Any) -> str:
    """The current actor: the outermost of the chain (RFC 8693)."""
    return _name(act.get("sub") if isinstance(act, dict) else None)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise InvalidToken("the agent of the token is no name")
    return value


def _tenant(settings: GatewayIssuerSettings, members: Mapping[str, Any]) -> str:
    """The claim wins. A token without it is of the issuer's own tenant, where that has one."""
    named = None if settings.tenant_claim is None else members.get(settings.tenant_claim)
    if named is None:
        named = settings.tenant
    if not isinstance(named, str) or not 0 < len(named) <= MAX_NAME:
        raise InvalidToken("the token names no tenant")
    return named
