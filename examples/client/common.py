"""What the four examples share: where Trustwatch is, a token for it, and the check of agents' own tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jwt

from trustwatch_client import Caller, caller_from_claims

URL = os.environ.get("TRUSTWATCH_URL", "http://127.0.0.1:8420")
TENANT = os.environ.get("TENANT", "acme-corp")
BUDGET_S = float(os.environ.get("BUDGET_S", "0.05"))
"""Longest look-up, s: what a request may wait for us."""
PORT = int(os.environ.get("PORT", "8480"))


def service_token() -> str:
    """Our own token, read anew each time: whoever renews it writes the file (`ClientCredentials` would ask for one)."""
    return Path(os.environ.get("TRUSTWATCH_TOKEN_FILE", "var/demo/token")).read_text().strip()


def verified(token: str, audience: str) -> dict[str, Any] | None:
    """Claims of an agent's access token, if its issuer's keys, audience and times say that it is good; else None.

    This is what makes the examples safe: nothing but verified claims ever names an agent.
    """
    keys = jwt.PyJWKSet.from_json(Path(os.environ.get("JWKS_FILE", "var/demo/data/local-jwks.json")).read_text())
    try:
        key = keys[jwt.get_unverified_header(token).get("kid", "")]
        options = {"require": ["iss", "aud", "exp", "iat", "client_id"]}
        claims = jwt.decode(token, key, ["ES256"], audience=audience, issuer="urn:trustwatch:local", options=options)
    except (jwt.PyJWTError, KeyError):
        return None
    return None if "cnf" in claims else claims  # a token that is bound to a key needs its proof, which is not read here


def bearer(scope: dict[str, Any]) -> str:
    """The bearer token of a request, "" where there is none."""
    value = next((value for name, value in scope.get("headers", ()) if name == b"authorization"), b"").decode("latin-1")
    return value[7:] if value[:7].lower() == "bearer " else ""


class Authentication:
    """The app's own authentication: verified claims go into the scope, everything else is refused with 401."""

    def __init__(self, app: Any, audience: str, open_paths: tuple[str, ...] = ()) -> None:
        self.app, self.audience, self.open_paths = app, audience, open_paths

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in self.open_paths:
            claims = verified(bearer(scope), self.audience)
            if claims is None:
                headers = [(b"www-authenticate", b'Bearer error="invalid_token"'), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body"})
                return
            scope["claims"] = claims
        await self.app(scope, receive, send)


def caller(claims: dict[str, Any] | None) -> Caller | None:
    """The agent that verified claims name."""
    return None if claims is None else caller_from_claims(claims, tenant=TENANT)
