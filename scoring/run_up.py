"""Reasons of a rise that several events brought about: what was odd before the event that crossed the threshold.

A name counts once, so the event that lifts a level often has nothing new in it: only gathered surprise. What gathered
is in the reasons that were kept for the agent on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ..ingest.features.table import FEATURE_NAMES
from .reasons import CUMULATIVE_FEATURES, MAX_REASONS
from .records import RiskReason
from .signals import hard_signal_codes

PRIOR_REASON_MARKER = "; earlier, at "
"""Begins the time of an event before the decision's own, at the end of a reason's text."""

_FEATURES = frozenset(FEATURE_NAMES)
_NAMED_FEATURES = _FEATURES - CUMULATIVE_FEATURES
_SIGNAL_CODES = frozenset(hard_signal_codes())
_MIN_PRIOR_SHARE = 0.02


def with_prior_reasons(
    reasons: Sequence[RiskReason], weight: float, kept: Sequence[RiskReason], kept_weight: float, kept_ms: int
) -> tuple[RiskReason, ...]:
    """Reasons of an event together with those that were kept of its agent, each by its part of the evidence of both.

    Hard signals come first, and beside them at most `MAX_REASONS` of the rest, among them the event's own strongest.
    How much has gathered comes last, and the event itself says that better than what was kept.

    Args:
        weight: evidence of the event, natural log.
        kept: reasons of an event before it, or of several.
        kept_weight: evidence of that event, as far as it has not faded; 0 or less tells nothing.
        kept_ms: when it happened, UTC milliseconds.
    """
    if kept_weight <= 0.0:
        return tuple(reasons)
    part = kept_weight / (kept_weight + max(weight, 0.0))
    seen = {(reason.feature, reason.observed) for reason in reasons}
    before = [
        _prior_reason(reason, part, kept_ms)
        for reason in kept
        if (reason.feature in _NAMED_FEATURES or _rank(reason) == 0)
        and (reason.feature, reason.observed) not in seen
        and reason.contribution * part >= _MIN_PRIOR_SHARE
    ]
    own = [msgspec.structs.replace(one, contribution=round(one.contribution * (1.0 - part), 3)) for one in reasons]
    rules = [reason for reason in (*own, *before) if _rank(reason) == 0]
    rest = sorted((reason for reason in (*own, *before) if _rank(reason)), key=_sort_key)
    leading = min((reason for reason in own if _rank(reason)), key=_sort_key, default=None)
    if leading is not None and leading not in rest[:MAX_REASONS]:  # the event itself is always spoken of
        rest[MAX_REASONS - 1 :] = [leading]
    return (*rules, *rest[:MAX_REASONS])


def _sort_key(reason: RiskReason) -> tuple[int, float]:
    return _rank(reason), -reason.contribution


def _rank(reason: RiskReason) -> int:
    if (
        reason.code in _SIGNAL_CODES and reason.feature not in _FEATURES
    ):  # some features are called as the signals on them
        return 0
    return 2 if reason.feature in CUMULATIVE_FEATURES else 1


def _prior_reason(reason: RiskReason, part: float, at_ms: int) -> RiskReason:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    said = "" if PRIOR_REASON_MARKER in reason.text else f"{PRIOR_REASON_MARKER}{at:%H:%M:%S} UTC"
    return msgspec.structs.replace(reason, contribution=round(reason.contribution * part, 3), text=reason.text + said)
