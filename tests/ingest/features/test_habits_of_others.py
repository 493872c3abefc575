"""Who is it: what `habits_of_others` says of a session, and where it keeps silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT, AGENT_DRAW, GROUP, EventColumns
from trustwatch.ingest.features import baseline, layout
from trustwatch.ingest.features.baseline import empty_baseline, fit_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.frequency_tables import mix_pairs
from trustwatch.ingest.features.habits_of_others import habits_in_history

from ...support.feature_histories import columns, event, history

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


def fitted(batch: EventColumns) -> layout.Baseline:
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)
    return fit_baseline(batch, found, np.ones(len(batch), np.bool_))


@pytest.fixture
def watched() -> Watched:
    return Watched(past())


def test_a_session_of_a_peers_things_stands_out(watched: Watched) -> None:
    """The longer it lasts the surer; one of the agent's own does not, and neither moves the other."""
    stolen = watched.feed(*(work("a1", float(at), f"customer-2-{at}") for at in range(8)))
    own = watched.feed(*(work("a1", 20.0 + at, f"customer-1-{at}", session="s2") for at in range(8)))

    assert stolen == sorted(stolen) and stolen[-1] > 3.0
    assert own == [1.0] * 8


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


def test_a_random_history_has_values_of_the_feature_alone() -> None:
    """Whatever events lack; none is negative, and those that are compared are at least 1."""
    batch = columns(history(3, 900, agents=4))
    _, found = FeatureBuilder(empty_baseline(), 64).observe_and_learn(batch)

    values = habits_in_history(batch, found.items, np.arange(900, dtype=np.uint64))

    assert np.isfinite(values).all() and ((values == 0.0) | (values >= 1.0)).all() and (values >= 1.0).any()
