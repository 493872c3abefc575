"""Targets that no person named: which are told to be new, and in which tasks that says anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT, OWN_DENIAL
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.evidence_beside_features import LEAST_TARGETS
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.features.row_observations import allocate_observations

from ...support.feature_histories import SingleEventBuilder, columns, event, fitted

KNOWN, NEW_TASK, STRANGER = "desk", "billing", "stranger.example"


def call(at: float, target: str | None, provenance: str | None, task: str | None = NEW_TASK, **members: Any) -> Any:
    """A call to a target, of which the sender says where it came from."""
    resource = {name: value for name, value in (("id", target), ("provenance", provenance)) if value is not None}
    declared = {} if task is None else {"task": task}
    return event(at, **{"resource": resource, **declared, **members})


def baseline(calls: int = LEAST_TARGETS) -> Baseline:
    """What an agent of the peer group did for the known task, without a word of where its targets came from."""
    return fitted(call(-100.0 + at, f"h{at}", None, KNOWN, agent="peer") for at in range(calls))


def told(*calls: Any, of: Baseline | None = None, learn: bool = True) -> list[bool]:
    builder = SingleEventBuilder(of or baseline())
    builder.feed(*calls, learn=learn)
    return list(builder.found.told_targets.tolist())


@pytest.mark.parametrize("provenance", ["derived", "new"])
def test_a_new_target_that_nobody_named_in_a_new_task(provenance: str) -> None:
    assert told(call(0.0, STRANGER, provenance)) == [True]


@pytest.mark.parametrize("provenance", ["granted", "unknown", None])
def test_a_lie_is_worth_no_more_than_silence(provenance: str | None) -> None:
    assert told(call(0.0, STRANGER, provenance)) == [False]


def test_known_tasks_and_undeclared_ones_are_left_to_the_rest() -> None:
    assert told(call(0.0, STRANGER, "derived", KNOWN), call(1.0, STRANGER, "derived", None)) == [False, False]


def test_what_the_peers_or_the_agent_have_used_is_not_new() -> None:
    """Whatever the task: the agent learns it from its first use, and not where nothing is learned."""
    twice = [call(0.0, STRANGER, "derived"), call(1.0, STRANGER, "derived", task="another")]

    assert told(call(0.0, "h3", "derived")) == [False]
    assert told(*twice) == [True, False] and told(*twice, learn=False) == [True, True]
    assert told(twice[0], {**twice[1], "agent": {"id": "a2", "type": "Clerk"}}) == [True, True]


def test_a_group_that_has_shown_little_knows_nothing_to_be_new() -> None:
    assert told(call(0.0, STRANGER, "derived"), of=baseline(LEAST_TARGETS - 1)) == [False]
    assert told(call(0.0, STRANGER, "derived", role="Other")) == [False]
    assert told(call(0.0, STRANGER, "derived"), of=empty_baseline()) == [False]


def test_without_a_target_nothing_is_told() -> None:
    assert told(call(0.0, None, "derived")) == [False]


def test_a_row_that_is_measured_again_forgets_what_was_told() -> None:
    """Observations are scratch: our own denial in the place of such an event says nothing."""
    builder = FeatureBuilder(baseline(), 10)
    first, denial = columns([call(0.0, STRANGER, "new")]), columns([call(1.0, STRANGER, "new")])
    denial.codes[:, OWN_DENIAL] = 1
    slots, rows = builder.admit(first.names[:, AGENT]), np.zeros(1, np.int64)
    vectors, observations = np.zeros((1, FEATURE_COUNT)), allocate_observations(1)
    builder.observe(first, slots, rows, vectors, observations)
    assert observations.told_targets.tolist() == [True]
    builder.observe(denial, slots, rows, vectors, observations)

    assert observations.told_targets.tolist() == [False]
