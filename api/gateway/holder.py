"""Whose token it is: from verified claims to the question that the guard is asked at every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ...scoring.policy import AccessRequest
from ..hooks.base import MAX_SCOPES, RequestLimitExceeded, earlier_actors
from ..settings import GatewayIssuerSettings
from ..tokens import InvalidToken, TokenClaims
from ..tokens.verify import MAX_CLAIM_NAME_LENGTH

CLIENT_CLAIMS = ("client_id", "azp", "cid")


class TokenHolder(NamedTuple):
    """What a token says, read once and remembered with it.

    Attributes:
        access_request: about its agent; the same at every call, the answer is not.
        dpop_bound: bound to a key by DPoP (`cnf.jkt`), so it is worth nothing under `Bearer` (RFC 9449 section 7.1).
        issuer: `iss` of the token, for its revocation.
        encoded_claims: all claims, or members of the issuer's introspection answer, as JSON: a fraction of what objects
            take, and wanted by introspection alone.
    """

    access_request: AccessRequest
    dpop_bound: bool
    issuer: str
    encoded_claims: bytes

    def decode_claims(self) -> dict[str, Any]:
        """All claims, decoded anew."""
        found: dict[str, Any] = msgspec.json.decode(self.encoded_claims)
        return found


class TokenHolderFactory:
    """Makes holders.

    Args:
        issuers: of the settings.
    """

    def __init__(self, issuers: Iterable[GatewayIssuerSettings]) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}

    def from_claims(self, claims: TokenClaims) -> TokenHolder:
        """The holder of a token that was verified here. Raises InvalidToken."""
        client = claims.client_id or claims.subject
        return self._make(self._issuers[claims.issuer], client, claims.scopes, claims.members)

    def from_introspection(self, issuer: str, members: Mapping[str, Any]) -> TokenHolder:
        """The holder of a token that its issuer says is active. Raises InvalidToken where no agent is named."""
        named = next((members[name] for name in CLIENT_CLAIMS if members.get(name) is not None), members.get("sub"))
        given = members.get("scope")
        scopes = frozenset(given.split()) if isinstance(given, str) else frozenset()
        return self._make(self._issuers[issuer], _check_name(named), scopes, members)

    def _make(
        self, settings: GatewayIssuerSettings, client: str, scopes: frozenset[str], members: Mapping[str, Any]
    ) -> TokenHolder:
        act = members.get("act")
        agent = client if act is None else _current_actor(act)
        if len(scopes) > MAX_SCOPES:
            raise InvalidToken(f"the token has more than {MAX_SCOPES} scopes")
        try:
            ancestors = earlier_actors(act, agent)
        except RequestLimitExceeded:
            raise InvalidToken("an actor of the token is no name") from None
        question = AccessRequest(
            _tenant_of_token(settings, members),
            settings.agent_issuer or settings.issuer,
            agent,
            tuple(sorted(scopes)),
            False,
            ancestors,
        )
        confirmation = members.get("cnf")
        bound = isinstance(confirmation, dict) and "jkt" in confirmation
        return TokenHolder(question, bound, settings.issuer, _encode_claims(members))


def _encode_claims(members: Mapping[str, Any]) -> bytes:
    """Half a surrogate pair can be written in a token and in no event or log: it must not come further than here."""
    try:
        return msgspec.json.encode(members)
    except (UnicodeEncodeError, RecursionError):
        raise InvalidToken("the token holds text that is no Unicode") from None


def _current_actor(act: Any) -> str:
    """The current actor: the outermost of the chain (RFC 8693)."""
    return _check_name(act.get("sub") if isinstance(act, dict) else None)


def _check_name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_NAME_LENGTH:
        raise InvalidToken("the agent of the token is no name")
    return value


def _tenant_of_token(settings: GatewayIssuerSettings, members: Mapping[str, Any]) -> str:
    """The claim wins. A token without it is of the issuer's own tenant, where that has one."""
    named = None if settings.tenant_claim is None else members.get(settings.tenant_claim)
    if named is None:
        named = settings.tenant
    if not isinstance(named, str) or not 0 < len(named) <= MAX_CLAIM_NAME_LENGTH:
        raise InvalidToken("the token names no tenant")
    return named
