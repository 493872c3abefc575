"""Kernels of a round: equal bits to the same steps in NumPy, of whole columns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest import columns
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import ONCE
from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURES
from trustwatch.models.betting import LEARN_CREDENTIAL, LEARN_NOTHING, learnable_parts
from trustwatch.models.detector import FAMILIAR_EVENTS
from trustwatch.scoring.engine import evidence_dedup, risk, risk_levels, round_kernels
from trustwatch.scoring.engine.round_kernels import SUSPICION_SHARE, Measured, RoundInput
from trustwatch.scoring.engine.usual_anomalies import NEVER_USUAL, NEWCOMER_EVENTS, NO_HABIT, USUAL
from trustwatch.scoring.records.agents import RiskLevel

SEEDS = st.integers(0, 2**32 - 1)
CONCERNS = 3


def batch(seed: int) -> SimpleNamespace:
    """A batch of random events, some of whose rows are a round; each row has a slot of its own."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    rows = np.sort(rng.permutation(n)[: rng.integers(1, n + 1)])
    state = np.zeros(n, risk_levels.ROW)
    state["events"] = rng.integers(0, 2 * NEWCOMER_EVENTS, n)
    codes = rng.integers(0, 3, (n, columns.CODES)).astype(np.int8)
    codes[:, columns.TYPE] = rng.choice([0, columns.CLIENT_CHANGE, columns.CLIENT_REGISTER], n)
    return SimpleNamespace(
        rng=rng,
        n=n,
        rows=rows,
        slots=rng.permutation(n).astype(np.int32),
        state=state,
        codes=codes,
        names=rng.integers(0, 2**63, (n, columns.NAMES)).astype(np.uint64),
        times=rng.integers(0, 2**42, n),
        evidence=np.where(rng.random((len(rows), FEATURE_COUNT)) < 0.1, rng.exponential(size=FEATURE_COUNT), 0.0),
        least=rng.random(n),
        numbers=rng.integers(0, 2 * FAMILIAR_EVENTS, (n, layout.NUMBERS)).astype(np.float32),
    )


def measured(n: int) -> Measured:
    """Columns of *n* rows, none of which is assessed yet."""
    shapes = [(n,)] * 4 + [(n, CONCERNS)] * 4 + [(n,)] * 3
    return Measured(*(np.full(shape, -1.0) for shape in shapes))


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_habits_are_marked_by_who_calls_and_whence_arguments_come(seed: int) -> None:
    """A changed caller, an event that never becomes usual, and a newcomer, as the feature table says."""
    it = batch(seed)
    asked = np.flatnonzero(it.rng.random(FEATURE_COUNT) < 0.5)
    habits, changed = np.full(it.n, USUAL, np.int8), np.zeros(it.n, np.bool_)
    round_kernels.mark_habits(it.rows, it.slots, it.state, it.least, it.codes, it.evidence, asked, habits, changed)

    names = [feature.name for feature in FEATURES]
    callers = [at for at, feature in enumerate(FEATURES) if feature.caller and feature.counts == ONCE]
    flows = [names.index(name) for name in ("argument_origin", "argument_route", "sensitive_route")]
    who = [*callers, names.index("habits_of_others")]
    least = np.maximum(0.8, 0.4 * it.evidence[:, asked].max(axis=1, initial=0.0))
    carried = it.evidence[:, callers].max(axis=1) >= least
    authenticated = it.codes[it.rows, columns.SELF_ASSERTED] == 0
    newcomer = it.state["events"][it.slots[it.rows]] < NEWCOMER_EVENTS
    least = np.minimum(least, 2.0)
    never = it.evidence[:, flows].max(axis=1) >= least
    never |= (it.evidence[:, who].max(axis=1) >= least) & ~newcomer
    np.testing.assert_array_equal(changed[it.rows], carried & authenticated & (it.least[it.rows] <= 0.25))
    np.testing.assert_array_equal(habits[it.rows], np.where(never, NEVER_USUAL, USUAL))
    others = np.setdiff1d(np.arange(it.n), it.rows)
    assert not changed[others].any() and (habits[others] == USUAL).all()


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_what_is_learned_depends_on_token_suspicion_level_and_draw(seed: int) -> None:
    """Nothing that is self-asserted; of a suspicious window an announced key alone; else as in training."""
    it = batch(seed)
    by_concern = it.rng.exponential(size=(it.n, CONCERNS, risk.CONCERN_OUTPUTS))
    suspicion, limits = by_concern[:, :, risk.SUSPICION], it.rng.exponential(10.0, size=(4, CONCERNS, 3))
    threshold_rows, levels = it.rng.integers(0, 4, it.n), it.rng.integers(0, 5, (it.n, 2)).astype(np.int8)
    p_values, parts = it.rng.choice([0.001, 0.05, 0.9], it.n), np.empty(len(it.rows), np.uint8)
    it.numbers[:, layout.N_EVENTS] = it.rng.integers(0, 6, it.n)
    round_kernels.choose_learned(
        it.rows,
        it.names,
        it.codes,
        it.times,
        by_concern,
        limits,
        threshold_rows,
        levels,
        p_values,
        it.numbers,
        parts,
    )

    suspicious = (suspicion >= SUSPICION_SHARE * limits[threshold_rows, :, 0]).any(axis=1)
    quiet = (levels[:, 1] < RiskLevel.MEDIUM) & ~suspicious
    announced = np.where(it.codes[:, columns.TYPE] != 0, LEARN_CREDENTIAL, LEARN_NOTHING)
    whole = columns.EventColumns([], it.names, np.zeros((it.n, columns.NUMBERS)), it.codes, it.times)
    habit = learnable_parts(whole, it.rows, p_values, it.numbers[it.rows, layout.N_EVENTS])
    wanted = np.where(quiet[it.rows], habit, announced[it.rows])
    authenticated = it.codes[it.rows, columns.SELF_ASSERTED] == 0
    np.testing.assert_array_equal(parts, np.where(authenticated, wanted, LEARN_NOTHING))


@pytest.mark.parametrize("unnamed_evidence", [0.0, 1.25])
@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_the_input_of_the_detector_is_gathered_row_by_row(unnamed_evidence: float, seed: int) -> None:
    """What the agent is when the row is judged, and all that the detector is asked with."""
    it = batch(seed)
    slot_numbers, slot_known = it.rng.random((it.n, 5)).astype(np.float32), it.rng.integers(0, 9, (it.n, 3), np.uint8)
    numbers, known = np.zeros((it.n, 5), np.float32), np.zeros((it.n, 3), np.uint8)
    round_kernels.remember_agents(it.rows, it.slots, slot_numbers, slot_known, numbers, known)
    vectors, told = it.rng.random((it.n, FEATURE_COUNT)), it.rng.random(it.n) < 0.5
    out = RoundInput.allocate(len(it.rows), FEATURE_COUNT)
    round_kernels.gather_input(it.rows, vectors, it.names, it.codes, it.numbers, told, unnamed_evidence, out)

    np.testing.assert_array_equal(numbers[it.rows], slot_numbers[it.slots[it.rows]])
    np.testing.assert_array_equal(known[it.rows], slot_known[it.slots[it.rows]])
    np.testing.assert_array_equal(out.X, vectors[it.rows])
    np.testing.assert_array_equal(out.groups, it.names[it.rows, columns.GROUP])
    np.testing.assert_array_equal(out.failed, it.codes[it.rows, columns.OUTCOME] != columns.SUCCESS)
    np.testing.assert_array_equal(out.familiar, it.numbers[it.rows, layout.N_SHARED] >= FAMILIAR_EVENTS)
    np.testing.assert_array_equal(out.raising, np.where(told[it.rows], unnamed_evidence, 0.0))


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_scores_without_what_counted_are_never_odder(seed: int) -> None:
    """Both views are kept: the event as it is, and without what has counted; the least p-value is of the second."""
    it = batch(seed)
    m, rng, out = len(it.rows), it.rng, measured(it.n)
    counted = np.flatnonzero(rng.random(CONCERNS) < 0.7)
    raw = rng.random(m), rng.random(m), rng.random((m, CONCERNS)), rng.random((m, CONCERNS))
    raising = rng.random(m)
    round_kernels.keep_scores(it.rows, *raw, raising, counted, out)
    places = np.sort(rng.permutation(m)[: rng.integers(0, m + 1)])
    less = [values[places] for values in (rng.random(m), rng.random(m), *rng.random((2, m, CONCERNS)))]
    evidence, suppressed = it.evidence.copy(), rng.random((len(places), FEATURE_COUNT))
    lowered = np.zeros(len(places))
    round_kernels.keep_suppressed(it.rows, places, *less, lowered, suppressed, evidence, counted, out)

    wanted = [values.copy() for values in raw]
    for at, (values, bound) in enumerate(zip(less, (np.minimum, np.maximum, np.minimum, np.maximum), strict=True)):
        wanted[at][places] = bound(values, wanted[at][places])
    evidence_wanted, raising_wanted = it.evidence.copy(), raising.copy()
    evidence_wanted[places], raising_wanted[places] = suppressed, 0.0
    least = np.minimum(wanted[1], wanted[3][:, counted].min(axis=1, initial=1.0))
    for column, values in (
        (out.anomaly, raw[0]),
        (out.raw_p_values, raw[1]),
        (out.concern_anomaly, raw[2]),
        (out.raw_concern_p_values, raw[3]),
        (out.target_evidence, raising),
        (out.effective_anomaly, wanted[0]),
        (out.p_values, wanted[1]),
        (out.effective_concerns, wanted[2]),
        (out.concern_p_values, wanted[3]),
        (out.effective_target_evidence, raising_wanted),
        (out.least_p_values, least),
    ):
        np.testing.assert_array_equal(column[it.rows], values)
        assert (np.delete(column, it.rows, axis=0) == -1.0).all()
    np.testing.assert_array_equal(evidence, evidence_wanted)


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_rows_with_something_counted_are_taken_to_be_measured_again(seed: int) -> None:
    """A caller or argument that has counted is no habit, a target that has counted raises nothing."""
    it = batch(seed)
    rng, m = it.rng, len(it.rows)
    given_input = RoundInput(
        rng.random((m, FEATURE_COUNT)),
        it.names[it.rows, 0].copy(),
        rng.random(m) < 0.5,
        rng.random(m) < 0.5,
        rng.random(m),
    )
    places = np.sort(rng.permutation(m)[: rng.integers(0, m + 1)])
    masks, new_kinds = rng.integers(1, 2**32, (2, max(m, it.n))).astype(np.uint32)
    masks, habits = masks[: len(places)], np.full(it.n, -1, np.int8)
    out, fresh = RoundInput.allocate(len(places), FEATURE_COUNT), np.empty(len(places), np.uint32)
    own_codes = np.empty((len(places), columns.CODES), np.int8)
    round_kernels.take_input(it.rows, places, masks, given_input, new_kinds, it.codes, habits, fresh, own_codes, out)

    again = it.rows[places]
    is_never_usual = (masks & evidence_dedup.NEVER_USUAL_BITS) != 0
    target_counted = (masks >> np.uint32(layout.K_TARGET)) & np.uint32(1) != 0
    for taken, wanted in zip(out, given_input, strict=True):
        if wanted is not given_input.raising:
            np.testing.assert_array_equal(taken, wanted[places])
    np.testing.assert_array_equal(out.raising, np.where(target_counted, 0.0, given_input.raising[places]))
    np.testing.assert_array_equal(fresh, new_kinds[again])
    np.testing.assert_array_equal(own_codes, it.codes[again])
    np.testing.assert_array_equal(habits[again], np.where(is_never_usual, NO_HABIT, USUAL))
    assert (np.delete(habits, again) == -1).all()
