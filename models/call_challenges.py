"""Scores of calls before they are made, and the score above which a call waits for a person.

An evaluation request for a call contains neither how the call ends nor what the session did before it (`as_asked`). It
does report one thing that events do not: whether the tool is meant for values that others wrote. So calls have a
separate score of compromise, and p-values and thresholds come from held-out events of the history, as if they had been
evaluated. Each effect of a call has a separate threshold: reads and deletions are anomalous to different degrees, and a
person who has to approve every tenth deletion stops reading. Each tenant's thresholds are based on the calls of all
tenants, but no tenant raises the thresholds of another beyond bounds (`neighbour_bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.events import EFFECTS, EVENT_TYPES
from trustwatch.ingest.features.argument_flow import KNOWN_VALUES, NEW_TO_ALL, NEW_TO_PEERS, NEW_TO_TASK, foreign_values
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.feature_vector import (
    F_ARGUMENT_ROUTE,
    F_SENSITIVE_ROUTE,
    F_TRANSITION,
    F_WRITE,
    compose_rows,
)
from trustwatch.ingest.features.frequency_tables import mix_pairs
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.features.row_observations import RowObservations

from .calibration import anomaly_scores
from .concerns import COMPROMISE_NORM, concern_statistic
from .detector import ForestDetector
from .evidence_combination import weighted_evidence
from .input_checks import Flags, Floats, Ids, Ints
from .neighbour_bounds import bounded_scores, rank_calls, tenants_apart

EVERY_EFFECT = "all"
"""Name of the held-out calls of any effect, which replace those of effects that the history shows too seldom."""

MAX_CHALLENGED = 100.0
"""Maximum calls per 1,000 that a challenge budget may accept."""

CALL_TYPES = frozenset({"api.call", "tool.call", "a2a.message"})
"""Types of events that are evaluated before they happen."""

SCORE_RESOLUTION = 0.001
"""Scores that differ by at most this much are treated as equal. If the calls of a history are all alike, their scores
differ by rounding alone, and one more day of history moves all of them by less than this: each would exceed a threshold
among them."""

_CALL_TYPE_CODES = [code for code, name in enumerate(EVENT_TYPES) if name in CALL_TYPES]
_OF_SEVERAL_TENANTS = "bounded", "bounded_rehearsed"
_READ = EFFECTS.index("read")
_RANKS_KEPT, _TENANT_RANKS_KEPT = 256, 64
_USUAL_PER_1000 = 10.0
"""Budget at which p-values check whether calls rest on one neighbor, since p-values have no budget."""
_ACTIONS_KEPT = 2_000
_PRIOR_CALLS = 10
"""Number of calls of all actions that are added to an action's calls before they determine how often it uses new
values."""
_HABITS = FEATURE_INDEX["habits_of_others"]
PATH_PARTS = ("network_surprise",), ("credential_surprise",), ("chain_surprise", "chain_depth")
"""Features that are anomalous by a part of a call's access path: its network, its credential, its delegation chain. A
weaker method than before stays anomalous on any path."""
_PATH = [np.array([FEATURE_INDEX[name] for name in part]) for part in PATH_PARTS]
_ROUTES = [int(F_ARGUMENT_ROUTE), int(F_SENSITIVE_ROUTE)]
_UNASKED = [int(F_TRANSITION), int(F_WRITE), _HABITS, *_ROUTES]
"""Features whose values differ in an evaluation request: what sessions remember, and what is composed of it."""

_Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class ChallengeThreshold(msgspec.Struct, frozen=True):
    """The score above which a call waits for a person."""

    anomaly_score: float  # of compromise
    effect: str  # of the held-out calls that it was read from; `all` if the effect had too few


class HeldOutCalls(msgspec.Struct, frozen=True, omit_defaults=True):
    """Scores of held-out calls, at some ranks."""

    calls: _Count  # how many there were
    ranks: tuple[_Count, ...]  # ascending, 1 is the highest
    scores: tuple[Annotated[float, msgspec.Meta(ge=0.0, le=1.0)], ...]  # at each rank, descending
    # calls that would remain without the neighbor that has the most; None if neighbors were not considered
    without_largest: _Count | None = None

    def __post_init__(self) -> None:
        if len(self.ranks) != len(self.scores):
            raise ValueError("there must be a score for each rank")

    @staticmethod
    def of(scores: Floats) -> HeldOutCalls:
        """Keep the *scores* (n,) at ranks that become sparser like a geometric series."""
        if not len(scores):
            return HeldOutCalls(0, (), ())
        ordered, ranks = np.sort(scores)[::-1], ranks_kept(len(scores))
        return HeldOutCalls(len(ordered), tuple(ranks.tolist()), tuple(ordered[ranks - 1].tolist()))

    def p_value(self, score: float) -> float:
        """Return the conformal p-value in (0, 1]; between two kept ranks, the p-value of the lower one."""
        below = next((rank for rank, kept in zip(self.ranks, self.scores, strict=True) if kept < score), None)
        return 1.0 if below is None else below / (self.calls + 1)

    def threshold(self, per_1000: float) -> float | None:
        """Return the score that at most *per_1000* of 1,000 such calls exceed, or None if there are too few calls to
        promise it.

        A call like those held out exceeds the k-th highest of n scores with a probability of at most k / (n + 1).
        """
        index = int(np.searchsorted(self.ranks, allowed_calls(self.calls, per_1000), side="right")) - 1
        return self.scores[index] if index >= 0 else None

    def rests_on_one(self, per_1000: float) -> bool:
        """Return whether there would be no threshold without the calls of a single neighbor."""
        return self.without_largest is not None and allowed_calls(self.without_largest, per_1000) < 1


def allowed_calls(calls: int, per_1000: float) -> int:
    """Return the rank of the highest score that *per_1000* of 1,000 such calls may exceed; 0 if there are too few
    calls."""
    return int((calls + 1) * per_1000 / 1000.0 + 1e-9)


def ranks_kept(calls: int, kept: int = _RANKS_KEPT) -> Ints:
    """Return the ranks that are kept of this many calls. They become sparser like a geometric series."""
    return np.unique(np.geomspace(1, calls, kept).round().astype(np.int64))


class RatesOfNovelty(msgspec.Struct, frozen=True):
    """Rates of honest calls that use a foreign value with one degree of novelty."""

    acting: _Share  # of calls that do more than read
    reading: _Share  # of the others
    by_action: dict[str, _Share]  # by `action_keys`, hexadecimal, for actions that the history shows

    def of_call(self, key: int, *, reads: bool) -> float:
        """Return the rate for calls of an action, at least that of all acting calls, because a single action has too
        few."""
        return max(self.by_action.get(f"{key:016x}", self.reading if reads else self.acting), self.acting)


class ForeignValueRates(RatesOfNovelty, frozen=True):
    """Rates of honest calls that use a foreign value that their task never used."""

    # rates of values that no other task of the peer group used either; None in earlier models
    to_all: RatesOfNovelty | None = None

    def evidence(self, keys: Ids, effects: NDArray[np.int8], foreign: Floats) -> Floats:
        """Return the evidence of compromise (n,) of calls, in decades: half if a value is new only to the peer group.

        Args:
            keys: of `action_keys`.
            effects: codes.
            foreign: see `foreign_values`.
        """
        out = np.zeros(len(keys))
        for row in np.flatnonzero(foreign >= NEW_TO_PEERS).tolist():
            rates = self.to_all if self.to_all is not None and foreign[row] >= NEW_TO_ALL else self
            rate = rates.of_call(int(keys[row]), reads=bool(effects[row] == _READ))
            out[row] = -np.log10(rate) * (1.0 if foreign[row] >= NEW_TO_TASK else 0.5)
        return out


def fit_foreign_rates(keys: Ids, effects: NDArray[np.int8], foreign: Floats) -> ForeignValueRates:
    """Fit the rates on held-out calls; arguments as for `ForeignValueRates.evidence`. A few calls of one action are
    weak evidence."""
    tells_values = foreign >= KNOWN_VALUES
    keys, reads, foreign = keys[tells_values], effects[tells_values] == _READ, foreign[tells_values]
    of_task, to_all = (_fit_rates(keys, reads, foreign >= degree) for degree in (NEW_TO_TASK, NEW_TO_ALL))
    return ForeignValueRates(of_task.acting, of_task.reading, of_task.by_action, to_all)


def _fit_rates(keys: Ids, reads: Flags, new: Flags) -> RatesOfNovelty:
    acting, reading = (_rate(new[kind]) for kind in (~reads, reads))
    actions, action_of = np.unique(keys, return_inverse=True)
    counts, news = np.bincount(action_of, minlength=len(actions)), np.bincount(action_of, new, len(actions))
    mostly_read = np.bincount(action_of, reads, len(actions)) > counts / 2
    rates = (news + _PRIOR_CALLS * np.where(mostly_read, reading, acting)) / (counts + _PRIOR_CALLS)
    kept = np.argsort(-counts, kind="stable")[:_ACTIONS_KEPT].tolist()
    return RatesOfNovelty(acting, reading, {f"{int(actions[at]):016x}": float(rates[at]) for at in kept})


def _rate(flags: Flags) -> float:
    return float((1.0 + flags.sum()) / (1.0 + len(flags)))


def action_keys(columns: EventColumns) -> Ids:
    """Return the keys (n,) of actions within their peer groups, as `ForeignValueRates` uses them."""
    names = columns.names
    return mix_pairs(names[:, event_columns.GROUP], names[:, event_columns.ACTION])


BoundedCalls = dict[str, dict[str, HeldOutCalls]]
"""Calls by `tenant_key` and effect, as they count for that tenant; calls under "" are for all tenants without separate
ones."""


class CallChallenges(msgspec.Struct, frozen=True):
    """The data that verdicts on calls need in addition to the detector."""

    foreign: ForeignValueRates  # rates of values of others
    by_effect: dict[str, HeldOutCalls]  # held-out scores of calls of each effect, and of all (`EVERY_EFFECT`)
    # the same for calls at the end of the history, scored by a model of the history before; empty if the history was
    # too short, and in earlier models
    rehearsed: dict[str, HeldOutCalls] = {}
    # bounded, bounded_rehearsed: the same for each tenant; empty if there was one tenant, and in earlier models
    bounded: BoundedCalls = {}
    bounded_rehearsed: BoundedCalls = {}

    @property
    def tenants(self) -> frozenset[str]:
        """Keys of the tenants that have separate calls or thresholds."""
        return (frozenset(self.bounded) | frozenset(self.bounded_rehearsed)) - {""}

    def threshold(self, effect: str, per_1000: float, tenant: str = "") -> ChallengeThreshold | None:
        """Return the threshold for a tenant's calls of an effect that neither held-out nor validated calls exceed too
        often.

        If the effect has too few calls, or has enough only because of one neighbor, the calls of all effects decide,
        too. None if the history is too short for a threshold, or if no call may wait.
        """
        if per_1000 <= 0.0:
            return None
        lowest = None
        for name in (effect, EVERY_EFFECT):
            parts = self._parts(name, tenant, per_1000)
            scores = [calls.threshold(per_1000) for calls in parts if calls is not None]
            known = [score for score in scores if score is not None]
            if parts[0] is None or len(known) < len(scores):  # too few held-out calls, or too few that were validated
                continue
            score = min(1.0, max(known) + SCORE_RESOLUTION)
            if lowest is None or score < lowest.anomaly_score:
                lowest = ChallengeThreshold(score, name)
            if not any(calls is not None and calls.rests_on_one(per_1000) for calls in parts):
                break
        return lowest

    def _parts(self, effect: str, tenant: str, per_1000: float) -> list[HeldOutCalls | None]:
        """Return the held-out calls of an effect as they count for a tenant, and the validated ones if there are any.

        If validated calls would be too few without one neighbor, that neighbor may have made them all: the calls of all
        effects replace them, or none.
        """
        parts = [_calls_for(tenant, effect, self.by_effect, self.bounded)]
        if self.rehearsed:
            by_name = (
                _calls_for(tenant, name, self.rehearsed, self.bounded_rehearsed) for name in (effect, EVERY_EFFECT)
            )
            parts += [calls for calls in by_name if calls is None or not calls.rests_on_one(per_1000)][:1]
        return parts

    def p_value(self, effect: str, score: float, tenant: str = "") -> float:
        """Return the share of honest calls of an effect, or of all if there was none, that score at least as high.

        The share is that of held-out or of validated calls, whichever is larger.
        """
        of_effect = self._parts(effect, tenant, _USUAL_PER_1000)
        if any(calls is None or not calls.calls for calls in of_effect):
            of_effect = self._parts(EVERY_EFFECT, tenant, _USUAL_PER_1000)
        return max(calls.p_value(score - SCORE_RESOLUTION) for calls in of_effect if calls is not None)

    def document(self) -> dict[str, Any]:
        """The member `settings["challenges"]` of a manifest."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return {name: member for name, member in content.items() if member or name not in _OF_SEVERAL_TENANTS}

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> CallChallenges | None:
        """Read the challenges from a manifest's settings; None if the model was trained without them. Raises
        ModelError."""
        if "challenges" not in settings:
            return None
        try:
            challenges = msgspec.convert(settings["challenges"], CallChallenges)
        except msgspec.ValidationError as error:
            raise ModelError(f"manifest.json: settings.challenges is wrong ({error}); retrain") from None
        if EVERY_EFFECT not in challenges.by_effect:
            raise ModelError(f"manifest.json: settings.challenges.by_effect has no {EVERY_EFFECT!r}; retrain")
        if challenges.rehearsed and EVERY_EFFECT not in challenges.rehearsed:
            raise ModelError(f"manifest.json: settings.challenges.rehearsed has no {EVERY_EFFECT!r}; retrain")
        return challenges


def _calls_for(
    tenant: str, effect: str, of_all: Mapping[str, HeldOutCalls], bounded: BoundedCalls
) -> HeldOutCalls | None:
    """Return the calls of an effect as they count for a tenant: its calls, those of all tenants without separate calls,
    or all."""
    grounds = (bounded.get(key, {}).get(effect) for key in (tenant, ""))
    return next((calls for calls in grounds if calls is not None), of_all.get(effect))


def as_asked(vectors: Floats, codes: NDArray[np.int8], trusted: Flags | None = None) -> Floats:
    """Return the vectors (n, F) of calls as an evaluation request shows them: without order and habits, which sessions
    remember, and without anomalies of the *trusted* (n, 3) parts of their access paths, in the order of `PATH_PARTS`.
    """
    asked = vectors.copy()
    if trusted is not None:
        for part, features in enumerate(_PATH):
            asked[np.ix_(trusted[:, part], features)] = 0.0
    asked[:, F_TRANSITION] = asked[:, _HABITS] = 0.0
    asked[:, _ROUTES] = 0.0
    compose_rows(asked, codes)
    return asked


def score_calls(detector: ForestDetector, evidence: Floats, foreign: Floats, groups: Ids) -> Floats:
    """Return anomaly scores (n,) of compromise of evaluated calls."""
    by_concern = detector.by_concern
    statistic = concern_statistic(evidence, by_concern.roles.compromise, COMPROMISE_NORM)
    return anomaly_scores(by_concern.compromise_scales, statistic, np.ascontiguousarray(groups), foreign)


class AskedCallScores(NamedTuple):
    """Scores of n evaluated calls."""

    anomaly: Floats  # (n,), of compromise
    vectors: Floats  # (n, F), as a question knows them
    foreign: Floats  # (n,), of `foreign_values`


def score_asked(
    detector: ForestDetector,
    rates: ForeignValueRates,
    baseline: Baseline,
    columns: EventColumns,
    vectors: Floats,
    observations: RowObservations,
    trusted: Flags | None = None,
) -> AskedCallScores:
    """Score calls as evaluation requests, from what was observed of them.

    Args:
        detector, rates, baseline: of the model that scores the calls.
        columns: n calls.
        vectors, observations: of them, against the baseline.
        trusted: (n, 3), parts of their access paths that are trusted; None = none.
    """
    asked = as_asked(vectors, columns.codes, trusted)
    foreign = foreign_values(columns, np.arange(len(columns)), baseline, observations, vectors)
    of_others = rates.evidence(action_keys(columns), columns.codes[:, event_columns.EFFECT], foreign)
    evidence = weighted_evidence(detector.parts.tails, detector.parts.importance, asked)
    scores = score_calls(detector, evidence, of_others, columns.names[:, event_columns.GROUP])
    return AskedCallScores(scores, asked, foreign)


def held_out_by_effect(columns: EventColumns, scores: Floats) -> dict[str, HeldOutCalls]:
    """Return the scores (n,) of calls among events, by effect and for all effects, without events that are never
    evaluated."""
    return {name: HeldOutCalls.of(scores[rows]) for name, rows in _calls_by_effect(columns).items()}


def has_neighbours(columns: EventColumns) -> bool:
    """Return whether the events belong to several tenants."""
    return len(np.unique(columns.names[:, event_columns.TENANT])) > 1


def bounded_by_tenant(columns: EventColumns, scores: Floats) -> BoundedCalls:
    """Return the held-out scores as they count for each tenant with separate calls, and for all others, whose calls may
    all come from one neighbor."""
    tenants, by_tenant = columns.names[:, event_columns.TENANT], BoundedCalls()
    for name, rows in _calls_by_effect(columns).items():
        calls = rank_calls(tenants[rows], scores[rows])
        if not len(calls.scores):
            continue
        number, ranks = len(calls.scores), ranks_kept(len(calls.scores))
        found, left_out = bounded_scores(calls, ranks)
        kept = HeldOutCalls(number, tuple(ranks.tolist()), tuple(found.tolist()), calls.without_largest())
        by_tenant.setdefault("", {})[name] = kept
        ranks = ranks_kept(number, _TENANT_RANKS_KEPT)
        for own in tenants_apart(calls, left_out):
            found = bounded_scores(calls, ranks, own).scores
            kept = HeldOutCalls(number, tuple(ranks.tolist()), tuple(found.tolist()), calls.without_largest(own))
            by_tenant.setdefault(tenant_key(int(calls.keys[own])), {})[name] = kept
    return by_tenant


def _calls_by_effect(columns: EventColumns) -> dict[str, Ints]:
    rows = call_rows(columns)
    effects = columns.codes[rows, event_columns.EFFECT]
    by_effect = {name: rows[effects == code] for code, name in enumerate(EFFECTS)}
    return {**by_effect, EVERY_EFFECT: rows}


def call_rows(columns: EventColumns) -> Ints:
    """Return the rows of calls among events."""
    return np.flatnonzero(np.isin(columns.codes[:, event_columns.TYPE], _CALL_TYPE_CODES))


def tenant_key(hashed: int) -> str:
    """Return the key of a tenant from the hash of its name under the model's salt."""
    return f"{hashed:016x}"


def fit_challenges(
    detector: ForestDetector, columns: EventColumns, vectors: Floats, evidence: Floats, foreign: Floats
) -> CallChallenges:
    """Fit rates and scores of a history's calls, as if each call had been evaluated before it was made."""
    parts, effects, keys = detector.parts, columns.codes[:, event_columns.EFFECT], action_keys(columns)
    asked = evidence.copy()
    known = weighted_evidence(parts.tails, parts.importance, as_asked(vectors, columns.codes))
    asked[:, _UNASKED] = known[:, _UNASKED]
    rates = fit_foreign_rates(keys, effects, foreign)
    of_others = rates.evidence(keys, effects, foreign)
    scores = score_calls(detector, asked, of_others, columns.names[:, event_columns.GROUP])
    bounded = bounded_by_tenant(columns, scores) if has_neighbours(columns) else {}
    return CallChallenges(rates, held_out_by_effect(columns, scores), bounded=bounded)
