"""Reasons of a rise that several events brought about: what was odd before the event that crossed the threshold.

A name counts once, so the event that lifts a level often has nothing new in it: only gathered surprise. What gathered
is in the reasons that were kept for the agent on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ..ingest.features.table import NAMES
from .reasons import GATHERING, MOST_REASONS
from .records import Reason
from .signals import signal_names

EARLIER = "; earlier, at "
"""Begins the time of an event before the decision's own, at the end of a reason's text."""

_FEATURES = frozenset(NAMES)
_SHOWN = _FEATURES - GATHERING
_SIGNALS = frozenset(signal_names())
_LEAST_SHARE = 0.02


def with_earlier(
    reasons: Sequence[Reason], weight: float, kept: Sequence[Reason], kept_weight: float, kept_ms: int
) -> tuple[Reason, ...]:
    """Reasons of an event together with those that were kept of its agent, each by its part of the evidence of both.

    Hard signals come first, and beside them at most `MOST_REASONS` of the rest, among them the event's own strongest.
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
        _earlier(reason, part, kept_ms)
        for reason in kept
        if (reason.feature in _SHOWN or _rank(reason) == 0)
        and (reason.feature, reason.observed) not in seen
        and reason.contribution * part >= _LEAST_SHARE
    ]
    own = [msgspec.structs.replace(one, contribution=round(one.contribution * (1.0 - part), 3)) for one in reasons]
    rules = [reason for reason in (*own, *before) if _rank(reason) == 0]
    rest = sorted((reason for reason in (*own, *before) if _rank(reason)), key=_order)
    leading = min((reason for reason in own if _rank(reason)), key=_order, default=None)
    if leading is not None and leading not in rest[:MOST_REASONS]:  # the event itself is always spoken of
        rest[MOST_REASONS - 1 :] = [leading]
    return (*rules, *rest[:MOST_REASONS])


def _order(reason: Reason) -> tuple[int, float]:
    return _rank(reason), -reason.contribution


def _rank(reason: Reason) -> int:
    if reason.code in _SIGNALS and reason.feature not in _FEATURES:  # some features are called as the signals on them
        return 0
    return 2 if reason.feature in GATHERING else 1


def _earlier(reason: Reason, part: float, at_ms: int) -> Reason:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    said = "" if EARLIER in reason.text else f"{EARLIER}{at:%H:%M:%S} UTC"
    return msgspec.structs.replace(reason, contribution=round(reason.contribution * part, 3), text=reason.text + said)
