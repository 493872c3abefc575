"""How the levels of baselines add up: nothing is counted twice, and what followed a context is counted exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.baseline import empty_baseline, fit_baseline, with_fewer_names
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_declaration import BITS
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.features.frequency_tables import distinct_hash, scope_keys, shared_count
from trustwatch.ingest.features.layout import Baseline

from ...support.feature_histories import SingleEventBuilder, columns, event, fitted, history, overflows

SURPRISES = [at for at, f in enumerate(FEATURES) if f.unit == BITS and f.name != "session_strangeness"]  # a memory
KNOWN_SIZE, OTHER_SIZES = (812, 1022), (811, 1023)
"""Ends of one third of an octave, 2 ** (29 / 3) to 2 ** (30 / 3) of 1 + size, and what lies beside it."""


def many(count: int, **members: Any) -> list[dict[str, Any]]:
    """The same event every minute."""
    return [event(60.0 * i, **members) for i in range(count)]


def bits(baseline: Baseline, **members: Any) -> dict[str, float]:
    """Vector of one event of an agent that nobody knows."""
    return SingleEventBuilder(baseline).feed(event(90_000, agent="newcomer", **members))[0]


def test_the_first_event_of_all_surprises_nobody() -> None:
    """Where no level knows anything there is no probability to guess."""
    vector = SingleEventBuilder().feed(event(resource={"id": "x"}, peer="p", bytes_in=5, bytes_out=7, effect="delete"))[
        0
    ]

    assert [vector[FEATURES[at].name] for at in SURPRISES] == [0.0] * len(SURPRISES)


@pytest.mark.parametrize(
    ("member", "feature"),
    [
        ("bytes_in", "request_size_surprise"),
        ("bytes_out", "answer_size_surprise"),
    ],
)
def test_sizes_are_told_apart_by_thirds_of_an_octave(member: str, feature: str) -> None:
    """After 30 sizes within one third, another within it is certain, and one beside it has 2 / (30 + 1 + 1)."""
    watch = SingleEventBuilder()
    watch.feed(*many(30, **{member: 900}))

    def surprise(**members: Any) -> float:
        return watch.feed(event(2000, **members), learn=False)[0][feature]

    assert [surprise(**{member: size}) for size in KNOWN_SIZE] == [0.0, 0.0]
    assert [surprise(**{member: size}) for size in OTHER_SIZES] == pytest.approx([4.0, 4.0])
    assert surprise() == 0.0  # an event that tells no size
    assert surprise(action="other", **{member: 5}) == 0.0  # of this action no size is known


def test_sizes_belong_to_their_action() -> None:
    """A size that is usual for one action is odd for another that has sizes of its own."""
    watch = SingleEventBuilder()
    watch.feed(*many(30, action="list", bytes_out=50_000), *many(30, action="ping", bytes_out=20))

    ping = watch.feed(event(4000, action="ping", bytes_out=50_000), learn=False)[0]

    assert ping["answer_size_surprise"] == pytest.approx(-math.log2(2 / 32))


def test_one_tenant_with_one_group_gives_what_the_group_alone_gives() -> None:
    """Fleet, tenant and peer group that have all counted the same 40 events are evidence of 40 events."""
    baseline = fitted(many(40, agent="peer", action="refund"))

    assert bits(baseline, action="wipe")["action_surprise"] == pytest.approx(-math.log2(2 / 42))


@pytest.mark.parametrize("elsewhere", [{"tenant": "globex"}, {"role": "Auditor"}], ids=["tenant", "group"])
def test_a_wider_level_says_what_it_knows_beyond_the_narrower_one(elsewhere: dict[str, Any]) -> None:
    """Elsewhere 5 of 10 events wiped, with two different actions: (5 + 3) / (10 + 2 + 1); at home 0 of 40."""
    other = [*many(5, agent="b", action="wipe", **elsewhere), *many(5, agent="b", action="pay", **elsewhere)]
    baseline = fitted([*many(40, agent="peer", action="refund"), *other])

    vector = bits(baseline, action="wipe")

    assert vector["action_rarity_peers"] == pytest.approx(-math.log2(2 * (8 / 13) / 42))
    assert vector["action_surprise"] == vector["action_rarity_peers"]


def test_different_items_that_both_levels_know_are_shared_out() -> None:
    """One action in both tenants: beyond its own 30 events the fleet has 10, and of its one action a quarter of it."""
    baseline = fitted([*many(30, agent="a", action="pay"), *many(10, agent="b", action="pay", tenant="globex")])

    fleet = 1.25 / (10 + 0.25 + 1)
    assert bits(baseline, action="wipe")["action_surprise"] == pytest.approx(-math.log2(fleet * 2 / 32))


def test_what_neither_fleet_nor_tenant_has_is_one_novelty() -> None:
    """New to the fleet (30 events, 1.125 actions) and to the tenant's other group: the rarer of both counts."""
    baseline = fitted(
        [
            *many(40, agent="peer", action="refund"),
            *many(10, agent="b", action="audit", role="Auditor"),
            *many(30, agent="c", action="ship", tenant="globex"),
        ]
    )

    assert bits(baseline, action="wipe")["action_surprise"] == pytest.approx(-math.log2(2.125 / 32.125 * 2 / 42))
    # What the fleet does all the time is no novelty: to the other group it has 2 / 12.
    assert bits(baseline, action="ship")["action_surprise"] == pytest.approx(-math.log2(2 / 12 * 2 / 42))


@pytest.mark.parametrize("seed", range(3))
def test_an_agent_is_no_peer_of_itself(seed: int) -> None:
    """Over a baseline of nothing but its own events, an agent's surprises are those without any baseline."""
    past = history(seed, 150, agents=1)
    for made in past:
        made["agent"].pop("version")  # a new one would halve the agent's own counts, but not the baseline's
    batch = columns(past)
    alone, shared = FeatureBuilder(empty_baseline(), 2), FeatureBuilder(fitted(past), 2)
    shared.set_shared_counts(batch.names[:, AGENT])
    alone.observe_and_learn(batch)
    shared.observe_and_learn(batch)

    expected, _ = alone.observe_and_learn(batch, learn=False)
    vectors, _ = shared.observe_and_learn(batch, learn=False)

    assert not overflows(alone)
    assert expected[:, SURPRISES].max() > 2.0
    np.testing.assert_allclose(vectors[:, SURPRISES], expected[:, SURPRISES], rtol=1e-5, atol=1e-5)


def test_what_an_agent_did_since_is_not_taken_out_of_its_peers() -> None:
    """Ten of its 40 events are in the baseline beside a peer's 20: the peer's 20 stay, whatever the agent did since."""
    watch = SingleEventBuilder(fitted([*many(10), *many(20, agent="peer")]))
    watch.builder.set_shared_counts(columns(many(10)).names[:, AGENT])
    watch.feed(*many(40))

    wipe = watch.feed(event(9000, action="wipe"), learn=False)[0]

    assert wipe["action_rarity_peers"] == pytest.approx(-math.log2((0.75 + 1) / (20 + 0.75 + 1)))


def test_a_baseline_that_counts_an_agent_is_no_second_witness() -> None:
    """30 events of its own in the baseline as well: 2/32 for what is new, and not the square of it."""
    events = many(30)
    watch, twice = SingleEventBuilder(fitted(events)), SingleEventBuilder(fitted(events))
    watch.builder.set_shared_counts(columns(events).names[:, AGENT])
    for each in (watch, twice):
        each.feed(*events)

    wipe = event(2000, action="wipe")
    assert watch.feed(wipe, learn=False)[0]["action_surprise"] == pytest.approx(4.0)
    assert twice.feed(wipe, learn=False)[0]["action_surprise"] == pytest.approx(8.0)


def test_the_share_of_an_agent_leaves_memory_and_comes_back_with_it() -> None:
    """How many of its events the baseline counts is part of an agent's packed row."""
    batch = columns(many(30))
    builder = FeatureBuilder(fitted(many(30)), 2)
    builder.set_shared_counts(batch.names[:, AGENT])

    row = builder.pack(builder.slots.find(batch.names[:1, AGENT]))

    assert row["numbers"][0, layout.N_SHARED] == 30.0


def test_different_followers_of_a_context_are_counted_exactly() -> None:
    """Reads went to x, y and x, a write to z: two different targets behind read and one behind write, in each scope."""
    made = [event(i, action="read", resource={"id": target}) for i, target in enumerate("xyx")]
    batch = columns([*made, event(9, action="write", resource={"id": "z"})])
    _, found = FeatureBuilder(empty_baseline(), 4).observe_and_learn(batch)
    baseline = fit_baseline(batch, found, np.ones(4, np.bool_))
    keys = np.zeros(layout.SCOPES, np.uint64)
    scope_keys(keys, batch.names[0])

    for key in keys[: layout.TASK]:
        followers = [
            shared_count(
                baseline, key, distinct_hash(layout.K_ACTION_TARGET, found.contexts[row, layout.K_ACTION_TARGET])
            )
            for row in (0, 3)
        ]
        assert followers == [2.0, 1.0]
    new = {"resource": {"id": "new"}}
    assert bits(baseline, action="read", **new)["action_target_surprise"] == pytest.approx(-math.log2(3 / 6))
    assert bits(baseline, action="write", **new)["action_target_surprise"] == pytest.approx(-math.log2(2 / 3))


def test_no_probability_exceeds_certainty_in_a_task() -> None:
    """A long run counts its octave more often than its first use: such a repetition is certain, not more than that."""
    run = [event(i, task="t", session="s") for i in range(40)]

    vector = SingleEventBuilder(fitted(run)).feed(*[event(1000 + i, task="t", session="n") for i in range(40)])[-1]

    assert vector["repeat_surprise"] == 0.0


@pytest.mark.parametrize(
    ("feature", "members", "learnable"),
    [
        ("credential_surprise", {"credential": {"method": "private_key_jwt", "thumbprint": "new"}}, True),
        ("network_surprise", {"client": {"ip": "203.0.113.9"}}, True),
        ("action_surprise", {"action": "wipe"}, False),
    ],
)
def test_the_task_says_what_is_done_and_not_by_whom(feature: str, members: dict[str, Any], learnable: bool) -> None:
    """Others share the task: its frozen counts must not keep a key odd that an agent has used for long."""
    usual = {"credential": {"method": "private_key_jwt", "thumbprint": "old"}, "client": {"ip": "198.51.100.7"}}
    watch = SingleEventBuilder(fitted(many(400, agent="peer", task="pay", **usual)))
    changed = {**usual, **members}
    watch.feed(*many(400, agent="me", task="pay", **changed))

    surprise = watch.feed(event(90_000, agent="me", task="pay", **changed), learn=False)[0][feature]

    assert (surprise < 1.0) is learnable


def test_fewer_names_leave_all_counts_of_items() -> None:
    """Different items, by scope and behind each context, are divided once; how often each item came is not."""
    made = columns(many(40) + [event(action=f"step-{number}") for number in range(9)] + many(3))
    _, observations = FeatureBuilder(empty_baseline(), 10).observe_and_learn(made)
    whole = fit_baseline(made, observations, np.ones(len(made), np.bool_))
    fewer = with_fewer_names(whole, made, observations, 4.0)
    scopes = np.zeros(layout.SCOPES, np.uint64)
    different = set()
    for row in range(len(made)):
        scope_keys(scopes, made.names[row])
        contexts = observations.contexts[row, : layout.SINGLE_KINDS].tolist()
        different |= {
            (int(scope), distinct_hash(kind, np.uint64(context)))
            for scope in scopes[scopes != 0]
            for kind, context in enumerate(contexts)
            if context
        }
    assert different
    for scope, key in different:
        counts = [shared_count(one, np.uint64(scope), np.uint64(key)) for one in (whole, fewer)]
        assert counts[1] == counts[0] / 4.0 > 0.0
    assert int((whole.counts != fewer.counts).sum()) == len(different)
    assert (fewer.totals[:, : layout.SINGLE_KINDS, 1] == whole.totals[:, : layout.SINGLE_KINDS, 1] / 4.0).all()
    assert (fewer.totals[:, :, 0] == whole.totals[:, :, 0]).all()
    assert (whole.counts >= 0.0).all()
