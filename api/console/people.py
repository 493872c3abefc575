"""From a person who signed in to what that person may see and do: the same `Caller` that a token makes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from ..callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_SCORE_READ, AuthenticatedCaller, SourceBinding
from ..settings import ConsoleGrantSettings, ConsoleSettings
from .sessions import ConsoleSession

DEVELOPMENT_SUBJECT: Final = "development login"
CONSOLE_NAME_PREFIX: Final = "console:"
"""Before every name in records: no person can be taken for a client of the settings, nor for a source of events."""

MAX_NAME_LENGTH = 200


def matching_grant(claims: Mapping[str, Any], grants: tuple[ConsoleGrantSettings, ...]) -> ConsoleGrantSettings | None:
    """The first grant that the claims of a person fit; None = the person may not look at all."""
    return next((grant for grant in grants if _claim_matches(_claim_at(claims, grant.claim), grant.value)), None)


def _claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """`realm_access.roles` → `claims["realm_access"]["roles"]`; a claim whose name itself has dots is found first."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found


def _claim_matches(found: Any, value: str) -> bool:
    if isinstance(found, str):
        held = {found, *found.split()}
    elif isinstance(found, list):
        held = {one for one in found if isinstance(one, str)}
    else:
        return False
    return value in held or (value == "*" and bool(held - {""}))


def new_session(claims: Mapping[str, Any], grant: str, name_claim: str, now_s: float) -> ConsoleSession:
    """A new session of the person whom the claims name."""
    named = claims.get(name_claim)
    name = named if isinstance(named, str) and named else str(claims["sub"])
    shown = next(
        (claims[one] for one in ("name", "preferred_username", "email") if isinstance(claims.get(one), str)), name
    )
    return ConsoleSession(
        secrets.token_urlsafe(24),
        str(claims["sub"])[:MAX_NAME_LENGTH],
        name[:MAX_NAME_LENGTH],
        shown[:MAX_NAME_LENGTH],
        grant,
        now_s,
        now_s,
    )


def new_development_session(now_s: float) -> ConsoleSession:
    """A new session of whoever holds a link of the development login."""
    return new_session({"sub": DEVELOPMENT_SUBJECT}, "", "sub", now_s)


def session_caller(session: ConsoleSession, settings: ConsoleSettings) -> AuthenticatedCaller | None:
    """Who acts in a session, as the settings are now; None where they allow it nothing any more."""
    if not session.grant:
        if not settings.development_login:
            return None
        scopes, client_id, issuer = (
            frozenset((SCOPE_SCORE_READ, SCOPE_FEEDBACK, SCOPE_ADMIN)),
            "",
            "urn:trustwatch:console",
        )
        tenants: tuple[str, ...] = ("*",)
    else:
        found = [] if settings.oidc is None else [one for one in settings.oidc.grants if one.name == session.grant]
        if not found or settings.oidc is None:
            return None
        scopes, tenants = frozenset(found[0].scopes), found[0].tenants
        issuer, client_id = settings.oidc.issuer, settings.oidc.client_id
    speaks = (
        ("*",) if SCOPE_ADMIN in scopes else ()
    )  # for records that were refused, and are sent in again on one's own word
    binding = SourceBinding(f"{CONSOLE_NAME_PREFIX}{session.name}", tenants, speaks, speaks)
    return AuthenticatedCaller(
        issuer, session.subject, client_id, scopes, session.began_s + settings.session_s, binding
    )
