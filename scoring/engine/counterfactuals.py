"""Levels of an event, had one thing in it been usual: the ground of "low had the target been usual".

Said is only what another event could have had in its place: a target, a key, a size. Pace, order and what has gathered
are of the events before it, and no other event at its place would have changed them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import BITS, Carried, Feature, Item, Quantity, Strongest, Z
from trustwatch.ingest.features.feature_table import FEATURE_INDEX, FEATURE_OF_KIND, FEATURES

from ..records.decisions import RiskReason
from .composites import recompute_composites
from .hard_signals import HARD_SIGNALS, HardSignal

_BEFORE_THE_EVENT = frozenset({layout.K_HOUR, layout.K_TRANSITION, layout.K_REPEAT})
"""Kinds whose item follows from when the event happens, and from what came before it."""
_QUANTITIES_OF_EVENT = frozenset(
    {
        layout.Q_BYTES_IN,
        layout.Q_BYTES_OUT,
        layout.Q_DURATION,
        layout.Q_BREADTH,
        layout.Q_DEPTH,
        layout.Q_LIFETIME,
    }
)


_ORDINARY = {BITS: 4.0, Z: 1.0}
"""Value that a feature may have of what is usual, by its unit: the most common of an agent's sizes may be one in
sixteen."""
_LEAST_ODD = {BITS: 5.0, Z: 3.0}
"""Value from which a thing is unusual enough to be spoken of."""


def _is_of_event(feature: Feature) -> bool:
    explanation = feature.explanation
    if isinstance(explanation, Item):
        return explanation.kind not in _BEFORE_THE_EVENT
    return isinstance(explanation, Quantity) and explanation.quantity in _QUANTITIES_OF_EVENT


_OF_EVENT = frozenset(at for at, feature in enumerate(FEATURES) if _is_of_event(feature))


def replaceable_features(
    reasons: Iterable[RiskReason], vector: npt.NDArray[np.float64], surprise: npt.NDArray[np.float64]
) -> list[int]:
    """Features of unusual things that another event could have had in their place, the strongest of *reasons* first.

    Args:
        vector: of the event, (F,).
        surprise: of the event's items, (KINDS,): it tells which item a reason of several speaks of.
    """
    named = [reason for reason in reasons if reason.feature in FEATURE_INDEX]
    ranked = sorted(named, key=lambda reason: -reason.contribution)
    features = [_thing_of(FEATURES[FEATURE_INDEX[reason.feature]], surprise) for reason in ranked]
    fit = [feature for feature in dict.fromkeys(features) if feature in _OF_EVENT]
    return [feature for feature in fit if vector[feature] >= _LEAST_ODD[FEATURES[feature].unit]]


def _thing_of(feature: Feature, surprise: npt.NDArray[np.float64]) -> int:
    """The feature of the thing that a feature's reason speaks of."""
    explanation = feature.explanation
    if isinstance(explanation, Carried):
        return int(FEATURE_OF_KIND[explanation.kind])
    if isinstance(explanation, Strongest):
        return int(FEATURE_OF_KIND[max(explanation.kinds, key=lambda kind: float(surprise[kind]))])
    return FEATURE_INDEX[feature.name]


def signals_of(index: int) -> list[HardSignal]:
    """Hard signals that fire because of the thing that a feature is about."""
    return [signal for signal in HARD_SIGNALS if FEATURES[index].name in signal.things]


def thing_words(index: int) -> str:
    """Words for the thing that a feature is about.

    What belongs to an action is usual for that one alone: a denial, or a size, may be odd for another one.
    """
    explanation = FEATURES[index].explanation
    noun = FEATURES[index].noun
    return (
        f"{noun}, its outcome and its sizes"
        if isinstance(explanation, Item) and explanation.kind == layout.K_ACTION
        else noun
    )


def with_usual(
    vectors: npt.NDArray[np.float64], index: int, new_kinds: int, codes: npt.NDArray[np.int8]
) -> npt.NDArray[np.float64]:
    """Copies of an event's *vectors* (m, F) had one thing been usual, with what is odd because of it alone.

    Args:
        index: feature of the thing.
        new_kinds: bits of the kinds in which the event's item is new to its agent.
        codes: of the event, (m, CODES).
    """
    after = vectors.copy()
    explanation = FEATURES[index].explanation
    usual = [index, *(FEATURE_INDEX[signal.code] for signal in signals_of(index) if signal.code in FEATURE_INDEX)]
    if isinstance(explanation, Item):
        usual += [at for at, other in enumerate(FEATURES) if _is_odd_by(other, explanation.kind, new_kinds)]
    most = [_ORDINARY.get(FEATURES[at].unit, 0.0) for at in usual]
    after[:, usual] = np.minimum(after[:, usual], most)
    recompute_composites(after, codes)
    return after


def _is_odd_by(feature: Feature, kind: int, new_kinds: int) -> bool:
    """Tell whether a feature is odd because the item of a kind is new, and no other one is."""
    if feature.restates == (kind,):
        return True
    new = [other for other in feature.new_with if (new_kinds >> other) & 1]
    return new == [kind]
