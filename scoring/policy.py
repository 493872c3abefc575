"""Token policy: what a risk level means for the tokens of an agent (DESIGN section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from .records import RiskLevel


class TokenPolicy(msgspec.Struct, frozen=True):
    """Answer to an authorization server.

    `allowed_scopes` is a list of scopes or patterns with `*`, or null where the level restricts none; `step_up` asks for a
    person's approval (of write scopes at medium).
    """

    allow: bool
    max_token_lifetime_s: int
    allowed_scopes: tuple[str, ...] | None
    refresh_allowed: bool
    step_up: bool
    revoke: bool


DEFAULT_POLICY: dict[RiskLevel, TokenPolicy] = {
    RiskLevel.LOW: TokenPolicy(True, 900, None, True, False, False),
    RiskLevel.UNKNOWN: TokenPolicy(True, 300, None, True, False, False),
    RiskLevel.MEDIUM: TokenPolicy(True, 300, None, True, True, False),
    RiskLevel.HIGH: TokenPolicy(True, 60, ("*:read",), False, True, False),
    RiskLevel.CRITICAL: TokenPolicy(False, 0, (), False, False, True),
}


class PolicyTable:
    """The policy of every level, and a version that changes whenever the table does.

    Args:
        overrides: policies that replace the default of a level.
    """

    def __init__(self, overrides: Mapping[RiskLevel, TokenPolicy] | None = None) -> None:
        self._policies = {**DEFAULT_POLICY, **(overrides or {})}
        encoded = msgspec.json.encode([self._policies[level] for level in RiskLevel])
        self.version = hashlib.sha256(encoded).hexdigest()[:12]

    def __getitem__(self, level: int) -> TokenPolicy:
        return self._policies[RiskLevel(level)]
