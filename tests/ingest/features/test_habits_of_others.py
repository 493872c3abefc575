"""Who is it: what `habits_of_others` says of a session, and where it keeps silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT, AGENT_DRAW, GROUP
from trustwatch.ingest.features import baseline, layout
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.frequency_tables import mix_pairs
from trustwatch.ingest.features.habits_of_others import MEMORY, MOST_BITS, habits_in_history

from ...support.feature_histories import columns, event, fitted, history

EVENTS = 150
"""Events of each agent in the history, more than it takes to be compared."""


def work(agent: str, after_s: float, target: str, **members: Any) -> dict[str, Any]:
    """A call of an agent on one of its customers."""
    return event(after_s, agent=agent, **{"session": "s1", "resource": {"id": target}, "action": "send", **members})


def past(events: int = EVENTS, peers: int = 2, **members: Any) -> list[dict[str, Any]]:
    """Agents of one type with customers of their own: nobody else's ever."""
    return [
        work(f"a{who}", 100.0 * at + who - 1e6, f"customer-{who}-{at % 10}", session=f"p{at // 5}", **members)
        for at in range(events)
        for who in range(1, 1 + peers)
    ]


class Watched:
    """A feature builder over the baseline of a history, which counts its agents, too."""

    def __init__(self, lived: list[dict[str, Any]]) -> None:
        batch = columns(lived)
        self.builder = FeatureBuilder(fitted(batch), 16)
        self.builder.set_shared_counts(batch.names[:, AGENT])

    def feed(self, *events: dict[str, Any], learn: bool = True) -> list[float]:
        """Values of the feature."""
        vectors, _ = self.builder.observe_and_learn(columns(events), learn)
        return [float(value) for value in vectors[:, FEATURE_INDEX["habits_of_others"]]]


@pytest.fixture
def watched() -> Watched:
    return Watched(past())


def test_a_session_of_a_peers_things_stands_out(watched: Watched) -> None:
    """The longer it lasts the surer; one of the agent's own does not, and neither moves the other."""
    stolen = watched.feed(*(work("a1", float(at), f"customer-2-{at}") for at in range(8)))
    own = watched.feed(*(work("a1", 20.0 + at, f"customer-1-{at}", session="s2") for at in range(8)))

    assert stolen == sorted(stolen) and stolen[-1] > 3.0
    assert own == [1.0] * 8


def test_one_odd_call_is_no_habit(watched: Watched) -> None:
    """Among own ones it is outweighed, and alone it says little."""
    alone = watched.feed(work("a1", 0.0, "customer-2-1"))
    among = watched.feed(
        *(work("a1", 1.0 + at, f"customer-1-{at}", session="s2") for at in range(5)),
        work("a1", 9.0, "customer-2-1", session="s2"),
    )

    assert 1.0 < alone[0] < 1.0 + MOST_BITS / 2
    assert among[-1] == 1.0


def test_what_was_learned_is_the_agents_own(watched: Watched) -> None:
    """Honest change is over when it is learned, though the model's history does not know it."""
    values = watched.feed(*(work("a1", float(at), "customer-2-1") for at in range(60)))

    assert max(values) > 1.5 and values[-1] == 1.0


def test_a_long_session_shows_that_it_has_changed_hands(watched: Watched) -> None:
    own = [work("a1", float(at), f"customer-1-{at % 10}") for at in range(400)]
    stolen = [work("a1", 500.0 + at, f"customer-2-{at % 10}") for at in range(int(2 * MEMORY))]

    values = watched.feed(*own, *stolen, learn=False)

    assert values[399] == 1.0 and values[-1] > 2.0


@pytest.mark.parametrize(
    "lived",
    [past(peers=1), past(events=90), [*past(peers=1), *past(events=90, peers=2)[1::2]]],
    ids=["no peers", "a short history", "peers with a short one"],
)
def test_without_a_history_of_both_nothing_is_compared(lived: list[dict[str, Any]]) -> None:
    """What the group has is the agent's own, or too little to be a habit."""
    assert Watched(lived).feed(*(work("a1", float(at), "customer-2-1") for at in range(5))) == [0.0] * 5


def test_of_an_agent_that_the_history_does_not_show_nothing_is_said(watched: Watched) -> None:
    """Nor of one that was erased, whose events the baseline still counts."""
    watched.builder.state.numbers[:, layout.N_SHARED] = 0.0

    assert watched.feed(work("a1", 0.0, "customer-2-1"), work("new", 1.0, "customer-2-1")) == [0.0, 0.0]


def test_forged_events_move_no_session(watched: Watched) -> None:
    forged = [work("a1", float(at), "customer-2-1", self_asserted=True) for at in range(20)]

    assert watched.feed(*forged) == [0.0] * 20
    assert watched.feed(work("a1", 30.0, "customer-1-1")) == [1.0]


def test_of_a_history_that_is_too_long_the_newest_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are counted first: what an agent did never makes a history too long to be learned."""
    lived = [work(f"a{at % 2}", float(at), f"customer-{at}") for at in range(27_500)]
    monkeypatch.setattr(baseline, "MAX_ITEMS", 1 << 18)

    watched = Watched(lived)

    newest = [work("a1", 1e6 + at, f"customer-{27_499 - 2 * at}", session="newest") for at in range(5)]
    oldest = [work("a1", 2e6 + at, f"customer-{1 + 2 * at}", session="oldest") for at in range(5)]
    counts = watched.builder.baseline.counts
    assert counts.max() >= 27_500 and (counts > 0).sum() <= 1 << 18
    assert watched.feed(*newest, learn=False)[-1] < watched.feed(*oldest, learn=False)[-1]


def test_a_baseline_that_counts_no_agents_by_group_works_on(watched: Watched) -> None:
    """Models of 0.2 have none of these counts: agents that were in one group alone are compared as they were."""
    stolen = [work("a1", float(at), f"customer-2-{at}") for at in range(8)]
    with_counts = watched.feed(*stolen, learn=False)
    old, batch = Watched(past()), columns(stolen)
    draw, group = batch.names[:1, AGENT_DRAW], mix_pairs(np.array([13], np.uint64), batch.names[:1, GROUP])
    own = mix_pairs(np.array([14], np.uint64), draw)
    counted = np.concatenate([mix_pairs(scope, np.array([15], np.uint64)) for scope in (own, mix_pairs(own, group))])
    places = np.isin(old.builder.baseline.keys, counted)
    assert old.builder.baseline.counts[places].tolist() == [EVENTS, EVENTS]

    old.builder.baseline.counts[places] = 0.0

    assert old.feed(*stolen, learn=False) == with_counts


def test_a_history_is_measured_as_it_would_have_been_live() -> None:
    """Of the last session of each agent both ways say the same."""
    lived = past(events=130)
    lived += [work("a1", float(at), f"customer-2-{at}", session="last") for at in range(6)]
    batch = columns(lived)
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)
    sessions = np.unique([f"{one['agent']['id']} {one['session']}" for one in lived], return_inverse=True)[1]

    values = habits_in_history(batch, found.items, sessions.astype(np.uint64))

    rest = [one for one in lived if one["session"] != "last"]
    live = Watched(rest).feed(*lived[-6:], learn=False)
    np.testing.assert_allclose(values[-6:], live, rtol=1e-4)
    assert max(live) > 1.0
    assert not values[: 2 * 100].any() and values[2 * 110 :].all()


def test_a_random_history_has_values_of_the_feature_alone() -> None:
    """Whatever events lack; none is negative, and those that are compared are at least 1."""
    batch = columns(history(3, 900, agents=4))
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)

    values = habits_in_history(batch, found.items, np.arange(900, dtype=np.uint64))

    assert np.isfinite(values).all() and ((values == 0.0) | (values >= 1.0)).all() and (values >= 1.0).any()
