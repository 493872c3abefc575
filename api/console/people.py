"""From a person who signed in to what that person may see and do: the same `Caller` that a token makes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from ..callers import ADMIN, FEEDBACK, SCORE_READ, Caller, SourceBinding
from ..settings import ConsoleGrantSettings, ConsoleSettings
from .sessions import Session

DEVELOPMENT: Final = "development login"
PREFIX: Final = "console:"
"""Before every name in records: no person can be taken for a client of the settings, nor for a source of events."""

MOST_NAME = 200


def granted(claims: Mapping[str, Any], grants: tuple[ConsoleGrantSettings, ...]) -> ConsoleGrantSettings | None:
    """The first grant that the claims of a person fit; None = the person may not look at all."""
    return next((grant for grant in grants if _fits(_member(claims, grant.claim), grant.value)), None)


def _member(claims: Mapping[str, Any], path: str) -> Any:
    """`realm_access.roles` → `claims["realm_access"]["roles"]`; a claim whose name itself has dots is found first."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found


def _fits(found: Any, value: str) -> bool:
    if isinstance(found, str):
        held = {found, *found.split()}
    elif isinstance(found, list):
        held = {one for one in found if isinstance(one, str)}
    else:
        return False
    return value in held or (value == "*" and bool(held - {""}))


def session_of(claims: Mapping[str, Any], grant: str, name_claim: str, now_s: float) -> Session:
    """A new session of the person whom the claims name."""
    named = claims.get(name_claim)
    name = named if isinstance(named, str) and named else str(claims["sub"])
    shown = next(
        (claims[one] for one in ("name", "preferred_username", "email") if isinstance(claims.get(one), str)), name
    )
    return Session(
        secrets.token_urlsafe(24),
        str(claims["sub"])[:MOST_NAME],
        name[:MOST_NAME],
        shown[:MOST_NAME],
        grant,
        now_s,
        now_s,
    )


def development_session(now_s: float) -> Session:
    """A new session of whoever holds a link of the development login."""
    return session_of({"sub": DEVELOPMENT}, "", "sub", now_s)


def caller_of(session: Session, settings: ConsoleSettings) -> Caller | None:
    """Who acts in a session, as the settings are now; None where they allow it nothing any more."""
    if not session.grant:
        if not settings.development_login:
            return None
        scopes, client_id, issuer = frozenset((SCORE_READ, FEEDBACK, ADMIN)), "", "urn:trustwatch:console"
        tenants: tuple[str, ...] = ("*",)
    else:
        found = [] if settings.oidc is None else [one for one in settings.oidc.grants if one.name == session.grant]
        if not found or settings.oidc is None:
            return None
        scopes, tenants = frozenset(found[0].scopes), found[0].tenants
        issuer, client_id = settings.oidc.issuer, settings.oidc.client_id
    speaks = ("*",) if ADMIN in scopes else ()  # for records that were refused, and are sent in again on one's own word
    binding = SourceBinding(f"{PREFIX}{session.name}", tenants, speaks, speaks)
    return Caller(issuer, session.subject, client_id, scopes, session.began_s + settings.session_s, binding)
