"""The compiled kernel against the plain-Python features, and the promise that batches and spills change nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from benchmarks.reference_features import ReferenceFeatures, events_by_agent, fit, fit_values
from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.features.layout import K_FROM
from trustwatch.ingest.features.row_observations import IGNORED_EVENT, LATE_EVENT, OUT_OF_ORDER_EVENT
from trustwatch.ingest.hashing import NameHasher

from ...support.feature_histories import SALT, change_types, columns, fitted, history, overflows, trace_arguments

ORIGIN, HABITS, ROUTE, SENSITIVE = (
    FEATURE_NAMES.index(name) for name in ("argument_origin", "habits_of_others", "argument_route", "sensitive_route")
)


def plain_matrix(features: Any, events: list[dict[str, Any]]) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """Vectors and observations of the oracle, event by event, each learned after it was measured."""
    rows, seen = [], []
    for event in events:
        observed = features.observe(json.loads(json.dumps(event)))
        features.learn(observed)
        rows.append([observed.vector.get(name, 0.0) for name in FEATURE_NAMES])
        seen.append(observed)
    return np.array(rows), seen


def assert_same(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> None:
    """Equal within 1e-4 (state is kept in float32), and if not, the name of the feature that is not."""
    for at, name in enumerate(FEATURE_NAMES):
        np.testing.assert_allclose(ours[:, at], theirs[:, at], rtol=1e-4, atol=1e-4, err_msg=name)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_features_oracle_agrees_without_a_baseline(seed: int) -> None:
    """Vectors, late flags and token reuse equal those of exact dicts, whatever an event holds or lacks."""
    events = history(seed, 250)
    batch = columns(events)
    builder = FeatureBuilder(empty_baseline(), 8)

    ours, found = builder.observe_and_learn(batch)
    theirs, seen = plain_matrix(ReferenceFeatures(), events)

    assume(not overflows(builder))
    assert_same(ours, theirs)
    late = [flag in (LATE_EVENT, OUT_OF_ORDER_EVENT) for flag in found.flags.tolist()]
    assert late == [observed.late for observed in seen]
    unordered = [flag == OUT_OF_ORDER_EVENT for flag in found.flags.tolist()]
    assert unordered == [observed.agent is not None and "pace_1m" not in observed.quantities for observed in seen]
    tells_order = (found.items[:, K_FROM] != 0).tolist()
    assert tells_order == ["from" in observed.items for observed in seen]
    assert [flag == IGNORED_EVENT for flag in found.flags.tolist()] == [observed.agent is None for observed in seen]
    assert [bool(reuse) for reuse in found.token_reuse.tolist()] == [observed.token_reuse for observed in seen]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tenants=st.sampled_from([1, 2]))
def test_features_oracle_agrees_over_a_baseline(seed: int, tenants: int) -> None:
    """Fleet, tenant, peer group and task levels are fitted and weighed as the oracle does."""
    past, present = history(seed, 200, agents=4), history(seed ^ 1, 150)
    for made in (*past, *present):
        made["tenant"] = f"tenant-{int(made['agent']['id'][-1]) // 2 % tenants}"
    baseline = fitted(columns(past))
    batch = columns(present)
    builder = FeatureBuilder(baseline, 8)

    ours, _ = builder.observe_and_learn(batch)
    theirs, _ = plain_matrix(ReferenceFeatures(fit(past)), present)

    assume(not overflows(builder))
    assert_same(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), alone=st.booleans(), changes=st.booleans())
def test_features_oracle_agrees_where_the_baseline_counts_the_agents_themselves(
    seed: int, alone: bool, changes: bool
) -> None:
    """What the baseline has from the agent itself is taken out of its peers' level, in the share that it has of it."""
    past = history(seed, 200, agents=1 if alone else 4)
    lived = past + history(seed ^ 1, 100)
    if changes:
        change_types(lived, seed)
    builder = FeatureBuilder(fitted(columns(past)), 8)
    builder.set_shared_counts(columns(past).names[:, AGENT])

    ours, _ = builder.observe_and_learn(columns(lived))
    theirs, _ = plain_matrix(
        ReferenceFeatures(fit(past), events_by_agent(past)),
        lived,
    )

    assume(not overflows(builder))
    assert_same(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_features_oracle_agrees_on_origins_of_arguments(seed: int) -> None:
    """What task, peer group and agent remember of values, and which answers of a session others may have written."""
    past, present = history(seed, 200, agents=4), history(seed ^ 1, 100)
    trace_arguments([*past, *present], seed)
    builder = FeatureBuilder(fitted(columns(past)), 8)

    ours, _ = builder.observe_and_learn(columns(present))
    theirs, _ = plain_matrix(ReferenceFeatures(fit(past), values=fit_values(past)), present)

    assume(not overflows(builder))
    assert len(set(ours[:, ORIGIN].tolist())) > 1
    assert_same(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=160)  # a call with a revoked token, which was refused, is numbered in its session
def test_features_oracle_agrees_on_routes_of_arguments(seed: int) -> None:
    """What task, peer group and agent remember of routes, and which answers of a session were sensitive."""
    past, present = history(seed, 200, agents=4), history(seed ^ 1, 100)
    trace_arguments([*past, *present], seed, unhashed=0.5)
    types = NameHasher(SALT).hash_many(["thing"])
    builder = FeatureBuilder(fitted(columns(past), types), 8)

    ours, _ = builder.observe_and_learn(columns(present))
    reference = ReferenceFeatures(fit(past), values=fit_values(past, {"thing"}), sensitive={"thing"})
    theirs, _ = plain_matrix(reference, present)

    assume(not overflows(builder))
    assert len(set(ours[:, ROUTE].tolist())) > 1 and 1.0 in ours[:, SENSITIVE]
    assert_same(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), changes=st.booleans())
def test_features_oracle_agrees_on_habits_of_others(seed: int, changes: bool) -> None:
    """Sessions are compared with the exact history of the agent and that of its peers, where both have enough."""
    past = history(seed, 900, agents=4)
    lived = history(seed ^ 1, 200, agents=4)
    if changes:
        change_types(past + lived, seed)
    builder = FeatureBuilder(fitted(columns(past)), 8)
    builder.set_shared_counts(columns(past).names[:, AGENT])

    ours, _ = builder.observe_and_learn(columns(lived))
    theirs, _ = plain_matrix(ReferenceFeatures(fit(past), events_by_agent(past)), lived)

    assume(not overflows(builder))
    assert (ours[:, HABITS] >= 1.0).sum() > 50
    np.testing.assert_allclose(ours[:, HABITS], theirs[:, HABITS], rtol=1e-4, atol=1e-4)


def test_features_oracle_agrees_over_a_long_life() -> None:
    """After 900 events of one agent, and a flood that drifts from its slow reference, the two still agree."""
    events = sorted(history(25, 900, agents=1, days=20.0), key=lambda made: str(made["time"]))
    events += [events[-1] | {"time": f"2026-04-01T09:{i:02}:00Z", "bytes_out": 1e9} for i in range(60)]
    builder = FeatureBuilder(empty_baseline(), 2)

    ours, _ = builder.observe_and_learn(columns(events))
    theirs, _ = plain_matrix(ReferenceFeatures(), events)

    assert not overflows(builder)
    assert ours[:, FEATURE_NAMES.index("drift")].max() > 0.5
    assert_same(ours, theirs)


class Drawer:
    """Implements `StateSpill` with packed rows in a dict, as a store keeps them."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}
        self.builder: FeatureBuilder | None = None
        self.evicted = 0

    def evict(self, keys: np.ndarray[Any, Any], slots: np.ndarray[Any, Any]) -> None:
        assert self.builder is not None
        self.evicted += len(slots)
        for key, row in zip(keys.tolist(), self.builder.pack(slots), strict=True):
            self.rows[key] = row.tobytes()

    def admit(self, keys: np.ndarray[Any, Any], slots: np.ndarray[Any, Any]) -> None:
        assert self.builder is not None
        for key, slot in zip(keys.tolist(), slots.tolist(), strict=True):
            if key in self.rows:
                row = np.frombuffer(self.rows.pop(key), self.builder.pack(np.array([slot])).dtype)
                self.builder.unpack(np.array([slot]), row)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 299), max_size=12))
def test_features_do_not_depend_on_batches(seed: int, cuts: list[int]) -> None:
    """However a history is cut into batches, the vectors have the same bits."""
    batch = columns(history(seed, 300, agents=9))
    whole, _ = FeatureBuilder(empty_baseline(), 16).observe_and_learn(batch)

    pieces = FeatureBuilder(empty_baseline(), 16)
    edges = [0, *sorted(set(cuts)), len(batch)]
    parts = [pieces.observe_and_learn(batch.take(np.arange(a, b)))[0] for a, b in pairwise(edges)]

    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_features_spill_loses_nothing(capacity: int) -> None:
    """With room for fewer agents than there are, agents leave as packed rows and return, and the bits are the same."""
    batch = columns(history(11, 400, agents=9))
    whole, _ = FeatureBuilder(empty_baseline(), 16).observe_and_learn(batch)
    drawer = Drawer()
    small = FeatureBuilder(empty_baseline(), capacity, drawer)
    drawer.builder = small

    parts = [small.observe_and_learn(batch.take(np.arange(a, a + 1)))[0] for a in range(len(batch))]

    assert drawer.evicted > 100
    assert len(small.slots) <= capacity
    np.testing.assert_array_equal(np.concatenate(parts), whole)
