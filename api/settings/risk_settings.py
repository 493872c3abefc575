"""How much evidence is how much risk, and what a level means for tokens."""

from __future__ import annotations

from typing import Annotated

from ...ingest.settings import Name, SettingsPart, setting
from ...scoring.engine.settings import RiskEvaluationSettings


class ServiceRiskSettings(RiskEvaluationSettings, frozen=True):
    """The engine's settings, and what the service does with its levels."""

    staleness_s: Annotated[
        float,
        setting(
            "answers say `stale` when the pipeline is dead or behind for longer, s", after="confidence_minimum", gt=0
        ),
    ] = 300.0
    cool_down_s: Annotated[float, setting("same agent and reason alert again after, s; 0 is at once", ge=0)] = 900.0


class LevelPolicy(SettingsPart, frozen=True):
    """What one level means for the tokens of an agent."""

    allow: Annotated[bool, setting("whether a token is issued at all")] = True
    max_token_lifetime_s: Annotated[int, setting("longest lifetime of a new token, s", ge=0, le=86_400)] = 300
    allowed_scopes: Annotated[tuple[Name, ...] | None, setting("glob patterns of scopes granted; null is all")] = None
    refresh_allowed: Annotated[bool, setting("whether a refresh token may be used")] = True
    step_up: Annotated[bool, setting("whether a person must approve, whatever the scopes")] = False
    step_up_scopes: Annotated[tuple[Name, ...], setting("glob patterns of scopes that a person must approve")] = ()
    revoke: Annotated[bool, setting("whether tokens already issued are revoked")] = False

    def __post_init__(self) -> None:
        if self.allow and self.max_token_lifetime_s == 0:
            raise ValueError("`max_token_lifetime_s` may be 0 only where `allow` is false")


WRITE_SCOPES = ("*write*", "*create*", "*update*", "*delete*", "*admin*", "*manage*")


class LevelPolicies(SettingsPart, frozen=True):
    """Policy per level; a member that is not given keeps the default of its level."""

    unknown: Annotated[LevelPolicy, setting("an agent never seen, or too little known")] = LevelPolicy()
    low: Annotated[LevelPolicy, setting("as usual")] = LevelPolicy(max_token_lifetime_s=900)
    medium: Annotated[LevelPolicy, setting("unusual")] = LevelPolicy(step_up_scopes=WRITE_SCOPES)
    high: Annotated[LevelPolicy, setting("probably not the agent's own will")] = LevelPolicy(
        max_token_lifetime_s=60, refresh_allowed=False, step_up=True
    )
    critical: Annotated[LevelPolicy, setting("contain")] = LevelPolicy(
        allow=False, max_token_lifetime_s=0, allowed_scopes=(), refresh_allowed=False, revoke=True
    )


class TokenPolicySettings(LevelPolicies, frozen=True):
    """The same with the name it goes by."""

    version: Annotated[Name, setting("`policy_version` of answers and decisions; raise it with every change")] = "1"
