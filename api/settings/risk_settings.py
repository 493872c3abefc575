"""Risk and its levels: evidence to risk, and the meaning of a level for tokens."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.settings import Name, setting
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.policy.book import LevelPolicies


class ServiceRiskSettings(RiskEvaluationSettings, frozen=True):
    """The engine's settings, and what the service does with its levels."""

    staleness_s: Annotated[
        float,
        setting(
            "answers say `stale` when the pipeline is dead or behind for longer, s", after="confidence_minimum", gt=0
        ),
    ] = 300.0
    cool_down_s: Annotated[float, setting("same agent and reason alert again after, s; 0 is at once", ge=0)] = 900.0


class TokenPolicySettings(LevelPolicies, frozen=True):
    """Policy per level, with the name it goes by."""

    version: Annotated[Name, setting("`policy_version` of answers and decisions; raise it with every change")] = "1"
