"""Reasons as text: which features and signals moved the risk, what was seen, and what is usual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from string import Formatter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.event_words import caller_of, credential_of, foreign_arguments_of
from trustwatch.ingest.features.feature_declaration import (
    BadFeature,
    Carried,
    Compared,
    Drifted,
    Feature,
    Item,
    PeersKnow,
    Quantity,
    Sentence,
    Strongest,
)
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES, ITEMS, QUANTITIES
from trustwatch.ingest.features.feature_vector import distance_from_reference, usual_value
from trustwatch.ingest.features.frequency_tables import different_items_known, scope_keys, scope_row, shared_count
from trustwatch.ingest.features.habits_of_others import telling_habit
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.features.row_observations import ACTED_ON, SENSITIVE, UNHASHED, RowObservations
from trustwatch.ingest.printable_text import number_text

from ..records.decisions import RiskReason
from .hard_signals import HardSignal, hard_signal_codes

MAX_REASONS = 4
_MIN_SHARE = 0.08
_MIN_VALUE = 0.1
"""Least surprise or distance that is worth a reason, even if an absence is the anomaly."""
_SURPRISE_WORDS = ((8.0, "very unusual"), (4.0, "unusual"), (0.0, "a little unusual"))
_DISTANCE_WORDS = ((6.0, "far above"), (3.0, "well above"), (0.0, "above"))
"""Least value of a feature for each of the words that describe it: its unit means nothing to readers of a reason."""
MAX_NAME_LENGTH = 200
"""Characters of a name in a reason."""

AgentNumbers = npt.NDArray[np.float32]
KnownItems = npt.NDArray[np.uint8]

CUMULATIVE_FEATURES = frozenset(feature.name for feature in FEATURES if feature.gathering)
"""Features that measure how much has accumulated, and not of what: the last reasons, whatever their weight."""

COMPROMISE_NAMES = frozenset(feature.name for feature in FEATURES if feature.compromise or feature.added)
"""Features that are evidence of compromise: who calls, what, where to, with which rights, and whose values."""

CALLER_FEATURES = frozenset(feature.name for feature in FEATURES if feature.caller)
"""Features that identify the caller: listed before the actions."""


def sanitize_text(text: str, most: int = MAX_NAME_LENGTH) -> str:
    """Remove control characters, line breaks and reordering marks from foreign text, and bound its length.

    A sign replaces each character that cannot be shown, and a cut is visible (`printable_line` shows neither): two
    agents whose names differ must not read alike in a reason.
    """
    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    return shown if shown.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in shown)


def _amount_text(logarithm: float) -> str:
    """Format a quantity, given as `log1p`, for people: 0.583, 41.4, 48,600."""
    return number_text(math.expm1(logarithm))


def _usual_text(form: str, logarithm: float) -> str:
    """Format a usual amount: a learned mean, which may never have occurred itself."""
    return form.format(f"about {_amount_text(logarithm)}")


def _words(words: Sequence[tuple[float, str]], value: float) -> str:
    """Return the word for a feature's value."""
    return next((word for least, word in words if value >= least), words[-1][1])


def _counted(number: int, item: Item) -> str:
    """Return the number of different items as text."""
    return f"{number or 'no'} known {item.singular_noun if number == 1 else item.plural}"


class Row(NamedTuple):
    """A scored row, with the agent's state when the row was scored."""

    columns: EventColumns
    at: int
    memory: AgentNumbers
    known: KnownItems
    found: RowObservations

    @property
    def event(self) -> NativeEvent:
        return self.columns.events[self.at]


def _foreign_arguments(seen: Row, flags: npt.NDArray[Any], value: int) -> str:
    """Describe the row's arguments whose *flags* (m,), of all arguments, have a value."""
    start = seen.found.arguments.start
    places = np.flatnonzero(flags[start[seen.at] : start[seen.at + 1]] == value).tolist()
    return sanitize_text(foreign_arguments_of(seen.event, places))


_OF_ROW: dict[str, Callable[[Row], str]] = {
    "action": lambda seen: sanitize_text(seen.event.action),
    "credential": lambda seen: sanitize_text(credential_of(seen.event)),
    "foreign_arguments": lambda seen: _foreign_arguments(seen, seen.found.is_foreign, ACTED_ON),
    "argument_routes": lambda seen: _foreign_arguments(seen, seen.found.routes[:, UNHASHED] != 0, True),
    "sensitive_routes": lambda seen: _foreign_arguments(seen, seen.found.routes[:, SENSITIVE] != 0, True),
}
"""Facts of the row that a declared sentence may name in addition to the feature's value."""


def _is_new(seen: Row, kind: int) -> bool:
    """Return whether the row's item is unknown to the agent, which knows others of its kind."""
    return bool((int(seen.found.new_kinds[seen.at]) >> kind) & 1)


ReasonParts = tuple[str, str, str, str]
"""Parts of a reason: code, value seen, usual value, and the sentence."""


class ReasonWriter:
    """Writes the reasons of a scored row."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline

    def reasons(
        self,
        columns: EventColumns,
        row: int,
        memory: AgentNumbers,
        known: KnownItems,
        observations: RowObservations,
        vector: Sequence[float],
        shares: Sequence[float],
        signals: Sequence[HardSignal],
        *,
        compromise: bool = False,
    ) -> tuple[RiskReason, ...]:
        """Write the reasons of one row, strongest first: hard signals, the caller, then actions by share. Features that
        only measure totals come last, since they do not say what was done."""
        seen = Row(columns, row, memory, known, observations)
        rules = [
            RiskReason(signal.code, signal.feature, said, "should never happen", 1.0, f"{signal.text}: {said}")
            for signal, said in ((signal, sanitize_text(signal.observed(seen.event))) for signal in signals)
        ]
        order = np.argsort(-np.asarray(shares), kind="stable")[:MAX_REASONS]
        texts: set[str] = set()
        features = []
        for at in order.tolist():
            if shares[at] < _MIN_SHARE or vector[at] < _MIN_VALUE:
                continue
            feature, word = FEATURES[at], _WORDINGS[type(FEATURES[at].explanation)]
            code, observed, usual_text, text = word(self, seen, feature, feature.explanation, vector[at])
            if text not in texts:
                texts.add(text)
                features.append(RiskReason(code, feature.name, observed, usual_text, round(shares[at], 3), text))
        return (*rules, *sorted(features, key=lambda reason: _rank(reason, compromise)))

    def _item_reason(self, seen: Row, feature: Feature, explanation: Item | Carried, value: float) -> ReasonParts:
        item = ITEMS[explanation.kind]
        if isinstance(explanation, Carried) and explanation.among_peers:
            usual_text = self._among_peers(seen, item)
            name = sanitize_text(item.name(seen.event))
            text = f"{feature.noun} {name} ({_words(_SURPRISE_WORDS, value)} for its peer group); {usual_text}"
            return self._code(seen, feature, item), name, usual_text, text
        aside = f", called {sanitize_text(caller_of(seen.event))}" if feature.caller else ""
        return self._named(seen, feature, item, feature.noun, aside, value)

    def _strongest_reason(self, seen: Row, feature: Feature, explanation: Strongest, value: float) -> ReasonParts:
        item = ITEMS[max(explanation.kinds, key=lambda kind: float(seen.found.surprise_bits[seen.at, kind]))]
        effect = seen.event.effect or "unknown"  # the surprise is weighed by it
        aside = {"unknown": "", "admin": " in an admin call"}.get(effect, f" in a {effect} call")
        return self._named(seen, feature, item, item.singular_noun, aside, value)

    def _peers_reason(self, seen: Row, feature: Feature, explanation: PeersKnow, _: float) -> ReasonParts:
        known_kinds = [kind for kind in explanation.kinds if self._count_among_peers(seen, kind)[0]]
        kinds = known_kinds or explanation.kinds[:1]
        item = ITEMS[max(kinds, key=lambda kind: float(seen.found.surprise_bits[seen.at, kind]))]
        name, usual_text = sanitize_text(item.name(seen.event)), self._among_peers(seen, item)
        text = f"more like its peer group than like this agent's own past: {item.singular_noun} {name}; {usual_text}"
        return self._code(seen, feature, item), name, usual_text, text

    @staticmethod
    def _code(seen: Row, feature: Feature, item: Item) -> str:
        return f"first_seen_{feature.name.removesuffix('_surprise')}" if _is_new(seen, item.kind) else feature.name

    def _named(self, seen: Row, feature: Feature, item: Item, noun: str, aside: str, value: float) -> ReasonParts:
        """Describe an item: whether it is new, or how unusual, and how many the agent knows."""
        name = sanitize_text(item.name(seen.event))
        usual_text, complete = self._known_items(seen, item)
        form = item.unusual
        if _is_new(seen, item.kind):
            form = item.first if complete else item.forgotten
        said = form.format(noun=noun, name=name)
        text = f"{said}{aside} ({_words(_SURPRISE_WORDS, value)}){f'; {usual_text}' if usual_text else ''}"
        usual_text = usual_text or f"the {item.plural} that are known of this agent"
        return self._code(seen, feature, item), name, usual_text, text

    def _known_items(self, seen: Row, item: Item) -> tuple[str, bool]:
        """Describe how many different items of a kind the agent knows, and whether it remembers all that it learned."""
        if not seen.memory[layout.N_SEEN + item.kind]:
            at = self._baseline_row(self._scope_keys(seen)[layout.PEERS])
            known = 0 if at < 0 else round(float(self._baseline.totals[at, item.kind, 1]))
            return f"{_counted(known, item)} of its peer group", True
        counted = different_items_known(seen.known, item.kind)
        if counted is None:
            return "", False  # its names were not counted
        number, complete = counted
        return f"{'' if complete else 'at least '}{_counted(number, item)} of this agent", complete

    def _among_peers(self, seen: Row, item: Item) -> str:
        count, total = self._count_among_peers(seen, item.kind)
        return f"{count:,} of {total:,} times in the history of its peer group"

    def _count_among_peers(self, seen: Row, kind: int) -> tuple[int, int]:
        """Return how often the peer group, including the agent, had the row's item in the model's history, and any item
        of its kind."""
        peers, item = self._scope_keys(seen)[layout.PEERS], seen.found.items[seen.at, kind]
        at = self._baseline_row(peers)
        if at < 0 or item == 0:
            return 0, 0
        return round(shared_count(self._baseline, peers, item)), round(float(self._baseline.totals[at, kind, 0]))

    def _baseline_rows(self, seen: Row) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([self._baseline_row(key) for key in self._scope_keys(seen)], np.int64)

    def _baseline_row(self, scope_key: np.uint64) -> int:
        """Return the row of a scope in the model's history; -1 if it has none."""
        return int(scope_row(self._baseline, scope_key)) if scope_key else -1

    @staticmethod
    def _scope_keys(seen: Row) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        keys = np.zeros(layout.SCOPES, np.uint64)
        scope_keys(keys, seen.columns.names[seen.at])
        return keys

    def _quantity_reason(self, seen: Row, feature: Feature, explanation: Quantity, value: float) -> ReasonParts:
        mean, _, weight = usual_value(self._baseline, self._baseline_rows(seen), seen.memory, explanation.quantity)
        observed = explanation.form.format(_amount_text(seen.found.quantities[seen.at, explanation.quantity]))
        usual_text = _usual_text(explanation.form, mean) if weight else "nothing known yet"
        text = f"{feature.noun} {_words(_DISTANCE_WORDS, value)} what is usual: {observed}; usual {usual_text}"
        return feature.name, observed, usual_text, text

    def _drift_reason(self, seen: Row, feature: Feature, _: Drifted, __: float) -> ReasonParts:
        quantities = seen.found.quantities[seen.at]
        z, k = max(
            (distance_from_reference(seen.memory, quantities, k), k) for k in range(len(layout.DRIFT_QUANTITIES))
        )
        form = QUANTITIES[int(layout.DRIFT_QUANTITIES[k])].form
        observed = form.format(_amount_text(quantities[layout.DRIFT_QUANTITIES[k]]))
        usual_text = _usual_text(form, seen.memory[layout.N_REF_MEAN + k])
        text = f"{feature.noun}, {_words(_DISTANCE_WORDS, z)} the last weeks: {observed}; usual {usual_text}"
        return feature.name, observed, usual_text, text

    def _compared_reason(self, seen: Row, feature: Feature, _: Compared, __: float) -> ReasonParts:
        keys, names = self._scope_keys(seen), seen.columns.names[seen.at]
        agent, items = names[event_columns.AGENT_DRAW], seen.found.items[seen.at]
        habit = telling_habit(self._baseline, self._baseline_rows(seen), keys, agent, items)
        if habit is None:  # the reported event names nothing that is compared
            return feature.name, "the session", "its own habits", "the session is unlike this agent's history"
        others = " ".join(f"other {sanitize_text(seen.event.agent.type or '')} agents".split())
        said = f"more like {others} than like this one" if habit.others else "unlike this agent's history"
        item = ITEMS[habit.kind]
        name = sanitize_text(item.name(seen.event))
        usual_text = f"{habit.own:,} of {habit.own_total:,} times in this agent's history"
        theirs = f"{habit.group:,} of {habit.group_total:,} in that of its peer group"
        text = f"the session is {said}; {item.singular_noun} {name}: {usual_text}, {theirs}"
        return feature.name, name, usual_text, text

    def _sentence_reason(self, seen: Row, feature: Feature, explanation: Sentence, value: float) -> ReasonParts:
        words = {name: of(seen) for name, of in _OF_ROW.items()}
        observed, usual_text, text = (form.format(value=value, **words) for form in explanation)
        return feature.name, observed, usual_text, text


_WORDINGS: dict[type, Callable[[ReasonWriter, Row, Feature, Any, float], ReasonParts]] = {
    Item: ReasonWriter._item_reason,
    Carried: ReasonWriter._item_reason,
    PeersKnow: ReasonWriter._peers_reason,
    Strongest: ReasonWriter._strongest_reason,
    Quantity: ReasonWriter._quantity_reason,
    Drifted: ReasonWriter._drift_reason,
    Compared: ReasonWriter._compared_reason,
    Sentence: ReasonWriter._sentence_reason,
}
"""Method that words each kind of explanation."""


def check_explanations(features: Sequence[Feature]) -> None:
    """Refuse explanations that no method can write. Raises BadFeature."""
    for feature in features:
        if type(feature.explanation) not in _WORDINGS:
            kind = type(feature.explanation).__name__
            raise BadFeature(f"feature {feature.name!r}: reasons have no sentence for the explanation {kind}")
        allowed = {"value", *_OF_ROW}
        for form in feature.explanation if isinstance(feature.explanation, Sentence) else ():
            unknown = {field for _, field, _, _ in Formatter().parse(form) if field is not None} - allowed
            if unknown:
                raise BadFeature(
                    f"feature {feature.name!r}: {form!r} names unknown values {', '.join(sorted(unknown))}; there are "
                    f"{', '.join(sorted(allowed))}"
                )


check_explanations(FEATURES)


# A name counts once, so the event that lifts a level often has nothing new in it: only accumulated surprise. What
# brought the evidence is in the reasons that were kept for the agent on the way, since it was last quiet.


PRIOR_REASON_MARKER = "; earlier, at "
"""Mark before the time of an earlier event, at the end of a reason's text."""

MAX_CALLER_REASONS = 4
"""Reasons naming callers, in addition to the others, that are kept of an agent: the first ones since it was quiet."""

_FEATURES = frozenset(FEATURE_NAMES)
_NAMED_FEATURES = _FEATURES - CUMULATIVE_FEATURES
_SIGNAL_CODES = frozenset(hard_signal_codes())
_MIN_PRIOR_SHARE = 0.02


def with_prior_reasons(
    reasons: Sequence[RiskReason],
    weight: float,
    kept: Sequence[RiskReason],
    kept_weight: float,
    kept_ms: int,
    *,
    compromise: bool = False,
) -> tuple[RiskReason, ...]:
    """Merge the reasons of an event with kept ones, each weighted by its share of the evidence of both.

    Hard signals come first, then the callers, and after them at most `MAX_REASONS` of the rest, among them the event's
    own strongest. Accumulated amounts come last, as the event itself states them, not as they were kept.
    """

    def order(reason: RiskReason) -> tuple[int, float]:
        return _rank(reason, compromise), -reason.contribution

    if kept_weight <= 0.0:
        return tuple(reasons)
    part = kept_weight / (kept_weight + max(weight, 0.0))
    seen = {(reason.feature, reason.observed) for reason in reasons}
    before = [
        _prior_reason(reason, part, kept_ms)
        for reason in kept
        if (reason.feature in _NAMED_FEATURES or _rank(reason) == RULE)
        and (reason.feature, reason.observed) not in seen
        and (reason.contribution * part >= _MIN_PRIOR_SHARE or _rank(reason) == CALLER)
    ]
    own = [
        msgspec.structs.replace(reason, contribution=round(reason.contribution * (1.0 - part), 3)) for reason in reasons
    ]
    rules = [reason for reason in (*own, *before) if _rank(reason) == RULE]
    callers = sorted((reason for reason in (*own, *before) if _rank(reason) == CALLER), key=order)
    rest = sorted((reason for reason in (*own, *before) if _rank(reason) > CALLER), key=order)
    leading = min((reason for reason in own if _rank(reason) > CALLER), key=order, default=None)
    if leading is not None and leading not in rest[:MAX_REASONS]:  # the event itself is always spoken of
        rest[MAX_REASONS - 1 :] = [leading]
    return (*rules, *callers[:MAX_CALLER_REASONS], *rest[:MAX_REASONS])


def caller_reasons(reasons: Sequence[RiskReason]) -> list[RiskReason]:
    """Return those *reasons* that identify the caller."""
    return [reason for reason in reasons if _rank(reason) == CALLER]


def with_callers(
    kept: Sequence[RiskReason], kept_weight: float, reasons: Sequence[RiskReason], weight: float, at_ms: int
) -> tuple[RiskReason, ...]:
    """Add the reasons of a weaker, later event that identify the caller to *kept* ones."""
    seen = {(reason.feature, reason.observed) for reason in kept}
    part = max(weight, 0.0) / (kept_weight + max(weight, 0.0))
    more = [reason for reason in caller_reasons(reasons) if (reason.feature, reason.observed) not in seen]
    prior = [_prior_reason(reason, part, at_ms) for reason in more]
    return tuple(sorted((*kept, *prior), key=_rank))


RULE, CALLER, DONE, MANNER, GATHERED = range(5)


def _rank(reason: RiskReason, compromise: bool = False) -> int:
    """Return the rank of a reason: rules, then the caller, then what was done (for a compromise before how), then
    totals."""
    if reason.code in _SIGNAL_CODES and reason.feature not in _FEATURES:  # some features share a signal's name
        return RULE
    if reason.feature in CALLER_FEATURES:
        return CALLER
    if reason.feature in CUMULATIVE_FEATURES:
        return GATHERED
    return MANNER if compromise and reason.feature not in COMPROMISE_NAMES else DONE


def _prior_reason(reason: RiskReason, part: float, at_ms: int) -> RiskReason:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    said = "" if PRIOR_REASON_MARKER in reason.text else f"{PRIOR_REASON_MARKER}{at:%Y-%m-%d %H:%M:%S} UTC"
    return msgspec.structs.replace(reason, contribution=round(reason.contribution * part, 3), text=reason.text + said)
