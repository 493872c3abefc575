"""Comparison of champion and challenger over the same events, and whether a challenger may be promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from trustwatch.ingest.described import member
from trustwatch.ingest.printable_text import number_text
from trustwatch.ingest.settings import SettingsPart, setting

from ..records.agents import ALERTING_LEVELS
from .budget_chart import BREACH_PROBABILITY, upper_control_limit

DRIFTED_FEATURES = 0.5
DRIFTED_SCORES = 0.2
"""Population stability index from which a feature, and p-values, have drifted: 0.1 is a small shift, 0.25 large."""


class DriftSettings(SettingsPart, frozen=True):
    """The thresholds of a peer group's drift."""

    reference_days: Annotated[
        int, setting("first days of a group under a model, with which later days are compared", ge=1, le=90)
    ] = 7


class ShadowModelStats(msgspec.Struct, frozen=True):
    """Statistics of one model. Alerts count rises to a level or above; `false_alerts` exclude labeled attacks."""

    version: str
    alerts: dict[str, int]
    false_alerts: dict[str, int]
    per_1000: dict[str, float]
    detected: int
    delay_s: float | None


class LabelledAttackStats(msgspec.Struct, frozen=True):
    """Number and agents of the labeled attacks within the run."""

    attacks: int = 0
    kept: int = 0  # both detect them
    lost: int = 0  # the champion alone
    won: int = 0  # the challenger alone


class AlertAgreement(msgspec.Struct, frozen=True):
    """Agent-days by which model alerted at medium or above, without labeled attacks."""

    both: int = 0
    neither: int = 0
    only_champion: int = 0
    only_challenger: int = 0


class ShadowComparison(msgspec.Struct, frozen=True):
    """Result of a shadow run. Offsets are of the log, from the first to before the second; sums over partitions."""

    champion: ShadowModelStats
    challenger: ShadowModelStats
    agent_days: int
    events: int
    from_offset: int
    to_offset: int
    labels: LabelledAttackStats = LabelledAttackStats()
    agreement: AlertAgreement = AlertAgreement()


def comparison_from_dict(stored: dict[str, Any]) -> ShadowComparison | None:
    """Read a stored comparison; return None if there is none, or if another version of the program wrote it."""
    try:
        return msgspec.convert(stored, ShadowComparison) if stored else None
    except msgspec.ValidationError:
        return None


# A challenger replaces the champion only by a measured gain, within its budget, with no detection lost.


MAX_CHANCE = 0.05
"""Probability up to which an advantage by chance alone is accepted (one-sided sign test)."""


class PromotionAssessment(NamedTuple):
    """Whether a challenger may be promoted: `reasons` against it (none if it may), and `gains`."""

    gains: Annotated[list[str], member("what it does better than the champion", ["fewer false alerts"])]
    reasons: Annotated[list[str], member("what prevents a promotion", ["too few days in shadow"])]


def assess_promotion(
    comparison: ShadowComparison, budget: Mapping[str, float], min_agent_days: int
) -> PromotionAssessment:
    """Assess a challenger by its shadow run."""
    gains: list[str] = []
    reasons: list[str] = []
    if comparison.agent_days < min_agent_days:
        reasons.append(f"{comparison.agent_days} agent-days in shadow, at least {min_agent_days} are needed")
    broken = {name: _budget_breaches(comparison, name, budget) for name in ("champion", "challenger")}
    reasons += [f"the challenger breaks its own alert budget: {text}" for text in broken["challenger"]]
    if comparison.labels.lost:
        reasons.append(f"it misses {comparison.labels.lost} labelled attacks that the champion detects")
    if broken["champion"] and not broken["challenger"]:
        gains.append(f"the champion breaks the alert budget ({'; '.join(broken['champion'])}), the challenger keeps it")
    if comparison.labels.won and not comparison.labels.lost:
        gains.append(f"it detects {comparison.labels.won} labelled attacks that the champion misses")
    only_old, only_new = comparison.agreement.only_champion, comparison.agreement.only_challenger
    if only_new < only_old and _sign_test(only_new, only_old) <= MAX_CHANCE:
        gains.append(
            f"it raises no alert on {only_old} agent-days on which the champion does, and one on {only_new} on which "
            "the champion does not"
        )
    if not gains:
        reasons.append(
            "no measured gain: it detects no more labelled attacks, and its false alerts are not fewer by more than "
            f"chance ({only_new} agent-days with its alerts alone, {only_old} with the champion's alone)"
        )
    return PromotionAssessment(gains, reasons)


def _budget_breaches(comparison: ShadowComparison, name: str, budget: Mapping[str, float]) -> list[str]:
    """Return the levels at which a model alerted more often than its budget explains."""
    breaches = []
    for level in [alerting.label for alerting in ALERTING_LEVELS]:
        false = getattr(comparison, name).false_alerts[level]
        accepted = budget[level] * comparison.agent_days / 1000.0
        limit = upper_control_limit(accepted, BREACH_PROBABILITY)
        if false > limit:
            breaches.append(f"{false} at {level} or above, {number_text(accepted)} expected, {limit} are still chance")
    return breaches


def _sign_test(few: int, many: int) -> float:
    """Return the probability of at most this few of few + many, if both were equally likely."""
    n = few + many
    if n > 1_000:  # the normal distribution is as good
        return 0.5 * math.erfc((n / 2.0 - few - 0.5) / math.sqrt(n / 2.0))
    return sum(math.comb(n, k) for k in range(few + 1)) / 2.0**n
