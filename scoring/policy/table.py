"""Token policy: what a risk level means for the tokens of an agent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from ..records import RiskLevel


class LevelTokenPolicy(msgspec.Struct, frozen=True):
    """Answer to an authorization server.

    Attributes:
        allow: whether a token is issued at all.
        max_token_lifetime_s: longest lifetime of a new token.
        allowed_scopes: scopes or patterns with `*`; null where the level restricts none.
        refresh_allowed: whether a refresh token may be used.
        step_up: a person must approve; what for, says `step_up_scopes`.
        revoke: tokens already issued are to be revoked.
        step_up_scopes: patterns of the scopes that need the approval; `*` is all.
    """

    allow: bool
    max_token_lifetime_s: int
    allowed_scopes: tuple[str, ...] | None
    refresh_allowed: bool
    step_up: bool
    revoke: bool
    step_up_scopes: tuple[str, ...] = ()


WRITE_SCOPE_PATTERNS = ("*write*", "*create*", "*update*", "*delete*", "*admin*", "*manage*")

DEFAULT_LEVEL_POLICIES: dict[RiskLevel, LevelTokenPolicy] = {
    RiskLevel.LOW: LevelTokenPolicy(True, 900, None, True, False, False),
    RiskLevel.UNKNOWN: LevelTokenPolicy(True, 300, None, True, False, False),
    RiskLevel.MEDIUM: LevelTokenPolicy(True, 300, None, True, True, False, WRITE_SCOPE_PATTERNS),
    RiskLevel.HIGH: LevelTokenPolicy(True, 60, None, False, True, False, ("*",)),
    RiskLevel.CRITICAL: LevelTokenPolicy(False, 0, (), False, False, True),
}


class PolicyTable:
    """The policy of every level, and a version that changes whenever the table does.

    Args:
        overrides: policies that replace the default of a level.
        version: what answers and decisions call this table; None derives it from the content.
    """

    def __init__(
        self, overrides: Mapping[RiskLevel, LevelTokenPolicy] | None = None, version: str | None = None
    ) -> None:
        self._policies = {**DEFAULT_LEVEL_POLICIES, **(overrides or {})}
        encoded = msgspec.json.encode([self._policies[level] for level in RiskLevel])
        self.version = version or hashlib.sha256(encoded).hexdigest()[:12]

    @property
    def policies(self) -> dict[RiskLevel, LevelTokenPolicy]:
        """By level; a copy."""
        return dict(self._policies)

    def __getitem__(self, level: int) -> LevelTokenPolicy:
        return self._policies[RiskLevel(level)]
