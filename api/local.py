"""Tokens of the local development issuer, for demo and command line."""

from __future__ import annotations

import secrets
from pathlib import Path

from . import clock
from .tokens import LocalSigningKey


def issue_local_token(data_dir: Path, client_id: str, scopes: list[str], audience: str, lifetime_s: int) -> str:
    """A token signed with the key of *data_dir*; only accepted where the settings trust that issuer."""
    return LocalSigningKey.open(data_dir).issue_token(
        subject=client_id,
        client_id=client_id,
        scopes=scopes,
        audience=audience,
        lifetime_s=lifetime_s,
        now=clock.now_s(),
        token_id=secrets.token_urlsafe(12),
    )
