"""Agents that change their type: every history can be trained on, and is measured as it would have been live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features.baseline import empty_baseline, fit_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.habits_of_others import habits_in_history
from trustwatch.models.model_training import session_ids, train_model

from ..support.feature_histories import change_types, columns, event, history, trace_arguments
from ..support.model_history import SETTINGS

Lives = dict[tuple[str, str | None], list[str | None]]
"""Types that an agent (id, issuer) has in turn."""

LIVES: Lives = {
    ("a1", None): ["Clerk", "Teller", "Clerk"],
    ("a1", "https://two.example"): ["Teller"],
    ("a2", None): ["Clerk"],
    ("a3", None): [None, "Teller"],
}
EVENTS = 240
"""Events of each agent, enough for it to be compared in each of two types."""


def work(
    agent: str, issuer: str | None, role: str | None, after_s: float, customer: str, **more: Any
) -> dict[str, Any]:
    members = {"session": "last", "resource": {"id": customer}, "action": "send", "issuer": issuer, "role": role}
    return event(after_s, agent, **members | more)


def past(lives: Lives, **members: Any) -> list[dict[str, Any]]:
    """A history in which each agent has its own customers and one that all have, and changes type as *lives* has it."""
    events = []
    for number, ((agent, issuer), types) in enumerate(lives.items()):
        for at in range(EVENTS):
            role = types[at * len(types) // EVENTS]
            customer = f"{number}-{at % 9}" if at % 5 else "shared"
            session, after_s = f"p{at // 6}", 60.0 * at + number - 1e6
            events.append(work(agent, issuer, role, after_s, customer, session=session, **members))
    return sorted(events, key=lambda made: str(made["time"]))


def measured_live(lived: list[dict[str, Any]], last: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Values of the feature of the *last* events over a baseline of what was *lived* before."""
    batch = columns(lived)
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)
    builder = FeatureBuilder(fit_baseline(batch, found, np.ones(len(batch), np.bool_)), 64)
    builder.set_shared_counts(batch.names[:, AGENT])
    return builder.observe_and_learn(columns(last), False)[0][:, FEATURE_INDEX["habits_of_others"]]


def measured_in_history(events: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Values of the feature as training has them."""
    batch = columns(events)
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)
    return habits_in_history(batch, found.items, session_ids(batch))


roles = st.lists(st.sampled_from(["Clerk", "Teller", None]), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(lives=st.fixed_dictionaries(dict.fromkeys(LIVES, roles)), role=st.sampled_from(["Clerk", "Teller", None, "New"]))
def test_history_and_live_path_agree_whatever_types_agents_had(lives: Lives, role: str | None) -> None:
    """Of the last session, of an agent that stays, goes back, or becomes what none has been."""
    lived = past(lives)
    last = [work("a1", None, role, float(at), f"{at % 4}-{at}") for at in range(8)]

    in_history, live = measured_in_history(lived + last), measured_live(lived, last)

    assert np.isfinite(in_history).all()
    np.testing.assert_allclose(in_history[-len(last) :], live, rtol=1e-4)


def test_an_agent_that_changed_type_is_compared_with_others_alone() -> None:
    """What it did under another type is no part of its new group: there others have all that the group has."""
    lives: Lives = {("a1", None): ["Clerk"], ("a2", None): ["Teller"], ("a3", None): ["Clerk", "Teller"]}
    lived = past(lives)
    stolen = [work("a1", None, "Teller", float(at), f"1-{at % 9}") for at in range(8)]
    own = [work("a1", None, "Teller", 99.0 + at, f"0-{at % 9}", session="own") for at in range(8)]

    values = measured_live(lived, stolen + own)

    assert values[7] > 3.0 and values[8:].tolist() == [1.0] * 8
    np.testing.assert_allclose(measured_in_history(lived + stolen)[-8:], values[:8], rtol=1e-4)


@pytest.mark.parametrize("members", [{}, {"task": "t1"}, {"version": "2"}, {"self_asserted": True}], ids=str)
def test_a_history_in_which_agents_change_type_can_be_trained_on(members: dict[str, Any]) -> None:
    """Also if some events declare a task, name a release, or come from a sender that no token authenticates."""
    events = past(LIVES)
    events += [work("a1", None, "Teller", float(at), f"0-{at}", session=f"q{at // 5}", **members) for at in range(60)]

    model = train_model(columns(events), b"salt", "m", SETTINGS)

    vectors = np.zeros((1, len(FEATURE_INDEX)))
    assert np.isfinite(model.detector.assess(vectors, np.zeros(1, np.uint64))[0].p_value).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), agents=st.integers(1, 8), data=st.data())
def test_every_history_that_is_accepted_can_be_trained_on(seed: int, agents: int, data: st.DataObject) -> None:
    """Whatever events hold or lack, how large their numbers and how far apart their times are."""
    events = history(seed, 300, agents)
    trace_arguments(events, seed, unhashed=0.3)
    change_types(events, seed)
    sizes = st.sampled_from([0.0, 5e-324, 1.0, 1e18, 1.7e308])
    for made in events[::7]:
        made["agent"] |= {"issuer": f"https://{seed % 3}.example", "self_asserted": seed % 2 == 0}
    for made in data.draw(st.lists(st.sampled_from(events), max_size=6)):
        made |= {name: data.draw(sizes) for name in ("bytes_in", "bytes_out", "duration_ms")}
        made |= {"count": data.draw(st.sampled_from([1, 1.7e308])), "tenant": data.draw(st.sampled_from(["acme", "b"]))}
        made["time"] = data.draw(st.sampled_from(["1970-01-01T00:00:00Z", "9000-12-31T23:59:59Z", made["time"]]))

    model = train_model(columns(events), b"salt", "m", SETTINGS)

    assert model.detector is not None
