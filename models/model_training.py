"""Train a model on a history: each event is measured against baselines that have not seen it.

Otherwise a detector would learn from vectors in which everything is known, and no new event would ever look like them.
If there are enough agents, each is measured against the history of *others* and its own past, as in the live service: a
baseline that knows other sessions of the same agent knows its future, too, and what is new to the agent would look
known. If there are too few agents, each session is measured against the other sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.argument_flow import foreign_values
from trustwatch.ingest.features.baseline import NO_TYPES, empty_baseline, fit_baseline
from trustwatch.ingest.features.evidence_beside_features import UNNAMED
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_declaration import BITS, Z
from trustwatch.ingest.features.feature_table import (
    ADDED_FEATURES,
    COMPROMISE_FEATURES,
    FEATURE_COUNT,
    FEATURE_IMPORTANCE,
    FEATURE_INDEX,
    FEATURE_NAMES,
    FEATURES,
    OVERREACH_FEATURES,
)
from trustwatch.ingest.features.frequency_tables import mix_pairs
from trustwatch.ingest.features.habits_of_others import habits_in_history
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.features.row_observations import (
    ACTED_ON,
    IGNORED_EVENT,
    LOOKED_UP,
    SENSITIVE,
    UNHASHED,
    RowObservations,
)
from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.timestamps import DAY_MS

from .betting import damped_bets, fit_alarm_tail, learnable_parts
from .call_challenges import CallChallenges, fit_challenges
from .concerns import CONCERNS, ConcernScores, FeatureRoles
from .detector import DetectorSettings, ForestDetector, Scores
from .detector_training import HeldOutScores, fit_detector
from .input_checks import VOUCHING_ADVICE, Flags, Floats, Ids, Ints, NotEnoughHistory
from .trained_model import AgentSeeds, TrainedModel

AGENTS_PER_FOLD = 4
"""Number of agents that each fold needs before folds are split by agent."""

CROSS_FIT_ROUNDS = 2
"""Number of rounds: the first finds the anomalous events; the second learns them as rarely as the live
service does."""

_FEATURE_ROLES = FeatureRoles(np.array(ADDED_FEATURES), np.array(COMPROMISE_FEATURES), np.array(OVERREACH_FEATURES))
_HABITS = FEATURE_INDEX["habits_of_others"]
_ORIGIN, _ARGUMENT_ROUTE, _SENSITIVE_ROUTE = (
    FEATURE_INDEX[name] for name in ("argument_origin", "argument_route", "sensitive_route")
)
_RESOLUTION = {BITS: 0.25, Z: 0.25}
_DECADES_PER_UNIT = {BITS: float(np.log10(2.0))}


def cross_fit_detector(
    columns: EventColumns,
    observations: RowObservations,
    sessions: Ids,
    settings: DetectorSettings,
    version: str,
    progress: Callable[[int], None] = lambda _: None,
    sensitive_types: Ids = NO_TYPES,
) -> tuple[ForestDetector, HeldOutScores, CallChallenges]:
    """Return a detector trained on cross-fitted vectors, the held-out scores of the history, and the basis of verdicts
    on calls.

    Raises:
        NotEnoughHistory: fewer events than a detector can be fitted on.
    """
    folds = event_folds(columns.names[:, event_columns.AGENT], sessions, settings.folds)
    agents, everything = columns.names[:, event_columns.AGENT], np.arange(len(columns))
    p_values, taught, numbers = np.ones(len(columns)), agent_event_numbers(agents), first_appearance_numbers(agents)
    rate_between = rates_of_new_tasks(columns, observations)
    habits = habits_in_history(columns, observations.items, sessions)
    for turn in range(CROSS_FIT_ROUNDS):
        learned = learnable_parts(columns, everything, p_values, taught, numbers)
        vectors, foreign = np.zeros((len(columns), FEATURE_COUNT)), np.zeros(len(columns))
        for fold in range(settings.folds):
            held_out = folds == fold
            if held_out.any():
                # The agents of the fold against a baseline of all others.
                acting = np.unique(agents[held_out])
                rows = np.flatnonzero(np.isin(agents, acting))
                builder = FeatureBuilder(fit_baseline(columns, observations, ~held_out, sensitive_types), len(acting))
                others = ~held_out[rows] & (observations.flags[rows] != IGNORED_EVENT)
                builder.set_shared_counts(agents[rows][others])
                measured, fresh = builder.observe_and_learn(columns, learned, rows)
                new = foreign_values(columns, rows, builder.baseline, fresh, measured)
                vectors[held_out], foreign[held_out] = measured[held_out], new[held_out]
            progress(turn * settings.folds + fold + 1)
        vectors[:, _HABITS] = habits
        detector, held_out_scores = fit_detector(
            vectors,
            columns.names[:, event_columns.GROUP].copy(),
            sessions,
            settings,
            FEATURE_NAMES,
            resolution=[_RESOLUTION.get(f.unit, 0.05) for f in FEATURES],
            importance=FEATURE_IMPORTANCE,
            decades=[_DECADES_PER_UNIT.get(f.unit, 0.0) for f in FEATURES],
            roles=_FEATURE_ROLES,
            failed=columns.codes[:, event_columns.OUTCOME] != event_columns.SUCCESS,
            rate_between=rate_between,
            version=version,
        )
        p_values = held_out_scores.scores.p_value
    return (
        detector,
        held_out_scores,
        fit_challenges(detector, columns, vectors, held_out_scores.scores.feature_evidence, foreign),
    )


def rates_of_new_tasks(columns: EventColumns, observations: RowObservations) -> Floats:
    """Return the rate (F,) of each feature of values and routes among honest events of an unknown task; 1 for other
    features.

    Each task is held out in turn of what its peer group remembers: (1 + events that do what no other task did) / (1 +
    events that report origins and declare a task, in a peer group with another task).
    """
    arguments, rates = observations.arguments, np.ones(FEATURE_COUNT)
    values, foreign = observations.values, observations.is_foreign
    used = np.where(foreign == ACTED_ON, values, 0)
    traced = columns.codes[:, event_columns.UNTRUSTED_RESULT] != event_columns.UNTRACED
    remembered = np.where(foreign != LOOKED_UP, values, 0)
    rates[_ORIGIN] = _rate_of_lonely(columns, arguments.start, remembered, used, traced)
    counts = np.diff(arguments.start)
    without = np.zeros(len(columns), np.bool_)
    without[np.repeat(np.arange(len(columns)), counts)[arguments.values == 0]] = True
    for rule, feature, asked in ((UNHASHED, _ARGUMENT_ROUTE, traced & without), (SENSITIVE, _SENSITIVE_ROUTE, traced)):
        routes = observations.routes[:, rule]
        rates[feature] = _rate_of_lonely(columns, arguments.start, routes, routes, asked)
    return rates


def rate_of_unnamed_targets(columns: EventColumns) -> float:
    """Return the rate of honest events whose target no person named and no other task of the peer group used.

    Counted as `rates_of_new_tasks` counts, among the events that report where their target came from; 1 if none does.
    """
    provenance = columns.codes[:, event_columns.PROVENANCE]
    targets = columns.names[:, event_columns.TARGET]
    unnamed = np.where(np.isin(provenance, UNNAMED), targets, 0)
    return _rate_of_lonely(columns, np.arange(len(columns) + 1), targets, unnamed, provenance >= 0)


def _rate_of_lonely(columns: EventColumns, start: Ints, remembered: Ids, used: Ids, asked: Flags) -> float:
    """Return the rate of events with an argument that is *used* (m,) and that no other task of the peer group
    *remembered* (m,)."""
    groups, tasks = columns.names[:, event_columns.GROUP], columns.names[:, event_columns.TASK]
    _, first = np.unique(mix_pairs(groups, tasks)[tasks != 0], return_index=True)
    group_of, tasks_of = np.unique(groups[tasks != 0][first], return_counts=True)
    judged = asked & (tasks != 0) & np.isin(groups, group_of[tasks_of > 1])
    rows = np.repeat(np.arange(len(columns)), np.diff(start))
    items = mix_pairs(groups[rows], remembered)
    kept = remembered != 0
    _, first = np.unique(mix_pairs(items, tasks[rows])[kept], return_index=True)
    item_of, tasks_with = np.unique(items[kept][first], return_counts=True)
    lonely = (used != 0) & judged[rows]
    lonely[lonely] = np.isin(items[lonely], item_of[tasks_with == 1])
    return float((1 + len(np.unique(rows[lonely]))) / (1 + int(judged.sum())))


def event_folds(agents: Ids, sessions: Ids, folds: int) -> Ints:
    """Assign a fold to each event, (n,) in [0, folds): by agent, or by session if there are too few agents."""
    number = first_appearance_numbers(agents)
    if int(number.max(initial=0)) + 1 < AGENTS_PER_FOLD * folds:
        number = sessions
    return (number % np.uint64(folds)).astype(np.int64)


def first_appearance_numbers(ids: Ids) -> Ids:
    """Number ids by first appearance, so that folds do not depend on the salt of the hashes."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.uint64)[inverse]


def agent_event_numbers(agents: Ids) -> Ints:
    """Return the number of events of the same agent before each event, (n,)."""
    order = np.argsort(agents, kind="stable")
    ordered = agents[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    turn = np.empty(len(agents), np.int64)
    turn[order] = np.arange(len(agents)) - np.repeat(starts, np.diff(np.r_[starts, len(agents)]))
    return turn


MIN_EXPONENT = 0.1
"""Minimum exponent. Below it thresholds would be out of reach: normal sessions are then so alike that only signals
decide."""

TrainingProgress = Callable[[str, int, int], None]


def train_model(
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings | None = None,
    progress: TrainingProgress = lambda *_: None,
    sensitive_types: Sequence[str] = (),
) -> TrainedModel:
    """Train a model; see `train_with_held_out` for arguments and errors."""
    return train_with_held_out(columns, salt, version, settings, progress, sensitive_types)[0]


def learnable_events(columns: EventColumns) -> Flags:
    """Flag (n,) the attested events that are behavior."""
    codes = columns.codes
    return np.asarray((codes[:, event_columns.SELF_ASSERTED] == 0) & (codes[:, event_columns.OWN_DENIAL] == 0))


def train_with_held_out(
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings | None = None,
    progress: TrainingProgress = lambda *_: None,
    sensitive_types: Sequence[str] = (),
) -> tuple[TrainedModel, HeldOutScores]:
    """Train on the events of *columns*, which are assumed to be normal and in the order in which they happened.

    Args:
        salt: key under which the names in *columns* were hashed.
        version: written into every decision of the model.
        settings: how to train the detector.
        progress: receives the stage and its progress.
        sensitive_types: types of resources whose answers are sensitive.

    Returns:
        the model, and the scores that each event got from a detector that had not seen it. Events that are not behavior
        (our own denials) or are unauthenticated are left out of everything; their scores are those of normal events.

    Raises:
        NotEnoughHistory: fewer events than a detector can be fitted on.
    """
    given, taught, settings = len(columns), learnable_events(columns), settings or DetectorSettings()
    if len(columns) and not taught.any():
        message = "no event of the history is authenticated behavior: nothing to learn from"
        asserted = (columns.codes[:, event_columns.SELF_ASSERTED] != 0).any()
        raise NotEnoughHistory(f"{message}. {VOUCHING_ADVICE}" if asserted else message)
    if not taught.all():
        columns = columns.take(np.flatnonzero(taught))
    agents = max(1, len(np.unique(columns.names[:, event_columns.AGENT])))
    steps = CROSS_FIT_ROUNDS * settings.folds + 2
    progress("reading history", 0, steps)
    types = NameHasher(salt).hash_many(sensitive_types)
    _, observations = FeatureBuilder(empty_baseline(types), agents).observe_and_learn(columns)
    sessions = first_appearance_numbers(session_ids(columns))
    detector, held_out, challenges = cross_fit_detector(
        columns,
        observations,
        sessions,
        settings,
        version,
        lambda done: progress("measuring each part against the others", done, steps),
        types,
    )
    progress("learning what is normal", steps - 1, steps)
    baseline = fit_baseline(columns, observations, np.ones(len(columns), np.bool_), types)
    builder = FeatureBuilder(baseline, agents)
    builder.observe_and_learn(columns)
    ids, rates, events = group_activity(columns)
    progress("done", steps, steps)
    acting = columns.names[:, event_columns.AGENT]
    bets = [damped_bets(p_values, acting, columns.time_ms) for p_values in held_out.concerns.p_value.T]
    first, second, third = (dependence_exponent(concern_bets, sessions) for concern_bets in bets)
    tails = [fit_alarm_tail(concern_bets, acting, columns.time_ms) for concern_bets in bets]
    model = TrainedModel(
        detector,
        baseline,
        agent_seeds(builder, columns),
        salt,
        ids,
        rates,
        events,
        version,
        baseline_digest(baseline),
        (first, second, third),
        (tails[0], tails[1], tails[2]),
        (int(columns.time_ms.min()), int(columns.time_ms.max())),
        challenges,
        tuple(sensitive_types),
        rate_of_unnamed_targets(columns),
    )
    if taught.all():
        return model, held_out
    k, n = len(CONCERNS), given
    full = HeldOutScores(
        Scores(np.zeros(n), np.ones(n), np.zeros((n, FEATURE_COUNT))), ConcernScores(np.zeros((n, k)), np.ones((n, k)))
    )
    for whole, part in zip((*full.scores, *full.concerns), (*held_out.scores, *held_out.concerns), strict=True):
        whole[taught] = part
    return model, full


def session_ids(columns: EventColumns) -> Ids:
    """Return one id per session of an agent. An event without a session belongs to its agent's day."""
    session = columns.names[:, event_columns.SESSION]
    day = (columns.time_ms // DAY_MS).astype(np.uint64)
    mixed = columns.names[:, event_columns.AGENT_DRAW] * np.uint64(0x9E3779B97F4A7C15) + np.where(
        session != 0, session, day
    )
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def dependence_exponent(bets: Floats, sessions: Ids) -> float:
    """Estimate how dependent the evidence of normal events is: Lundberg's exponent over sessions, 1 if independent.

    The bets on a session's events are not independent: an anomalous session is so throughout. Sessions are taken as the
    independent blocks. The exponent is the largest t in (0, 1] with mean(exp(t * S)) <= 1 over the summed log bets S of
    held-out sessions; a statistic of such sums exceeds c no more often than one of independent bets exceeds t * c.

    Args:
        bets: damped log bets on held-out p-values, shape (n,).
        sessions: shape (n,), session of each.
    """
    _, block = np.unique(sessions, return_inverse=True)
    sums = np.bincount(block, weights=bets)
    low, high = MIN_EXPONENT, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if np.logaddexp.reduce(middle * sums) <= np.log(len(sums)):
            low = middle
        else:
            high = middle
    return low


def group_activity(columns: EventColumns) -> tuple[Ids, Floats, Ints]:
    """Return the peer groups (fleet first), the mean events of an active agent per day in each, and their number of
    events."""
    agents, groups = columns.names[:, event_columns.AGENT], columns.names[:, event_columns.GROUP]
    days = (columns.time_ms // DAY_MS).astype(np.uint64)
    ids: list[int] = []
    rates: list[float] = []
    events: list[int] = []
    for group in (0, *np.unique(groups).tolist()):
        rows = groups == np.uint64(group) if ids else np.ones(len(columns), np.bool_)
        active = len(np.unique(np.stack([agents[rows], days[rows]]), axis=1).T)
        ids.append(group)
        rates.append(int(rows.sum()) / max(1, active))
        events.append(int(rows.sum()))
    return np.array(ids, np.uint64), np.array(rates), np.array(events, np.int64)


def agent_seeds(builder: FeatureBuilder, columns: EventColumns) -> AgentSeeds:
    """Return the state of a history's agents at its end, from *builder*."""
    agents = columns.names[:, event_columns.AGENT]
    keys, first, events = np.unique(agents, return_index=True, return_counts=True)
    rows = builder.pack(builder.slots.find(keys))
    rows["numbers"][:, layout.N_SHARED] = rows["numbers"][
        :, layout.N_EVENTS
    ]  # all of their history is in the baseline, too
    return AgentSeeds.unvalidated(keys, columns.names[first, event_columns.AGENT_CHECK], rows, events.astype(np.int64))


def baseline_digest(baseline: Baseline) -> str:
    """Return a short digest of a baseline, which names the snapshot that an event was measured against."""
    hashed = hashlib.sha256()
    for name, array in sorted(baseline._asdict().items()):
        hashed.update(name.encode() + str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:16]
