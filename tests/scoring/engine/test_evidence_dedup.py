"""What is odd counts once a day, by whatever it is; what else is odd counts in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import ONCE, Feature, Item
from trustwatch.ingest.features.feature_table import (
    COMPROMISE_FEATURES,
    FEATURE_COUNT,
    FEATURE_INDEX,
    FEATURE_NAMES,
    FEATURES,
)
from trustwatch.scoring.engine import evidence_dedup, risk_levels, usual_anomalies
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.engine.scored_batch import ScoredBatch

DAY, MINUTE = 86_400_000, 60_000
STRANGER = {"resource": {"target": "stranger.example", "external": True}}
ODD = 0.05


@pytest.fixture
def one(kit: Any, make: Any) -> Callable[..., ScoredBatch]:
    """Scores one event of a known agent after another: offset in minutes, and what is special about it."""
    engine: Engine = kit.processor(capacity=100).engine
    engine.score(kit.columns(make.stream(2, 1_500, start_ms=make.START_MS + 20 * DAY)))
    engine.risk["events"] += usual_anomalies.NEWCOMER_EVENTS  # nobody is a newcomer
    numbers = iter(range(1_000))

    def score(at_min: int, arrived_min: int | None = None, **more: Any) -> ScoredBatch:
        given = {"resource": {"target": "host-1-0"}, "session": f"s-{at_min // 60}", "bytes_out": 900, **more}
        made = make.event(next(numbers), 1, make.START_MS + 30 * DAY + at_min * MINUTE, **given)
        arrived = None if arrived_min is None else np.array([make.START_MS + 30 * DAY + arrived_min * MINUTE])
        return engine.score(kit.columns([made]), received_ms=arrived)

    score.engine = engine  # type: ignore[attr-defined]
    return score


def test_the_same_name_counts_once_a_day(one: Callable[..., ScoredBatch]) -> None:
    """The anomaly score stays what it is; evidence is that of an event with nothing odd in it."""
    first, again, later = (
        one(0, **STRANGER),
        one(30, **STRANGER),
        one(30 + evidence_dedup.DEDUP_WINDOW_MINUTES, **STRANGER),
    )
    assert first.p_values[0] <= ODD < again.p_values[0]
    assert later.p_values[0] <= ODD
    assert again.anomaly[0] == pytest.approx(first.anomaly[0], abs=0.05)
    assert again.effective_anomaly[0] < again.anomaly[0]
    assert first.effective_rows == {}
    assert again.effective_vectors([0]).sum() < again.vectors[0].sum()
    explain = one.engine.explainer.decision_evidence  # type: ignore[attr-defined]
    assert "left_aside" not in explain(0, first)
    assert {"target_surprise", "external_target"} & set(explain(0, again)["left_aside"])


def test_a_name_carries_the_evidence_of_a_concern_that_leaves_others_aside(one: Callable[..., ScoredBatch]) -> None:
    """A huge answer beside a new target: towards compromise, which asks no sizes, the target was all there was."""
    scored = one(0, **STRANGER)
    evidence = np.zeros((1, FEATURE_COUNT))
    evidence[0, FEATURE_INDEX["bytes_in"]], evidence[0, FEATURE_INDEX["target_surprise"]] = 6.0, 1.5

    def kept(asked: np.ndarray) -> bool:
        state, rows = risk_levels.allocate(1), np.zeros(1, np.int64)
        evidence_dedup.record_counted(
            rows,
            np.zeros(1, np.int32),
            state,
            scored.observations,
            scored.vectors,
            scored.at_ms,
            np.array([0.01]),
            np.zeros(1, np.int8),
            evidence,
            asked,
            np.zeros(1),
        )
        return bool(state["counted"].any())

    assert kept(np.array(COMPROMISE_FEATURES))
    assert not kept(np.zeros(FEATURE_COUNT, np.bool_))


def test_what_goes_on_stays_counted(one: Callable[..., ScoredBatch]) -> None:
    """A name that comes back every ten hours is one observation; after a day without it, it counts again."""
    assert one(0, **STRANGER).p_values[0] <= ODD
    for turn in range(1, 8):
        assert one(turn * 600, **STRANGER).p_values[0] > ODD
    assert one(7 * 600 + evidence_dedup.DEDUP_WINDOW_MINUTES, **STRANGER).p_values[0] <= ODD


def test_callers_count_again_each_day(one: Callable[..., ScoredBatch]) -> None:
    """A network that is still new is odd again after a day, however often it came; its events are no habit."""
    network = {"client": {"asn": 65_123}}
    first = one(0, **network)
    assert first.p_values[0] <= ODD
    assert first.habits[0] == usual_anomalies.NEVER_USUAL
    for turn in (1, 2):
        later = one(turn * 600, **network)
        assert later.p_values[0] > ODD
        assert later.habits[0] == usual_anomalies.NO_HABIT
    again = one(evidence_dedup.DEDUP_WINDOW_MINUTES, **network)
    assert again.p_values[0] <= ODD
    assert again.habits[0] == usual_anomalies.NEVER_USUAL


def test_an_odder_thing_hides_no_new_caller(one: Callable[..., ScoredBatch]) -> None:
    """A new network with a new action and target is as little usual as the network alone."""
    odd = one(0, client={"asn": 65_123}, action="never-done", **STRANGER)
    assert odd.habits[0] == usual_anomalies.NEVER_USUAL


def test_forged_events_keep_no_name_quiet(one: Callable[..., ScoredBatch]) -> None:
    """Who repeats a name without a token does not spare the attacker the next day's evidence."""
    first = one(0, **STRANGER)
    assert first.p_values[0] <= ODD
    one(1_000, **STRANGER, agent_self_asserted=True)
    assert one(evidence_dedup.DEDUP_WINDOW_MINUTES, **STRANGER).p_values[0] <= ODD


def test_another_name_counts(one: Callable[..., ScoredBatch]) -> None:
    """Each new one does, however many there were."""
    for number in range(5):
        other = {"resource": {"target": f"stranger-{number}.example", "external": True}}
        assert one(number, **other).p_values[0] <= ODD


def test_what_else_is_odd_counts_in_full(one: Callable[..., ScoredBatch]) -> None:
    """A new action on a target that has counted is odd, and its reasons speak of the action."""
    one(0, **STRANGER)
    worse = one(1, **STRANGER, action="wipe-disk", effect="delete")
    assert worse.p_values[0] <= ODD
    judged, alone = worse.effective_vectors([0])[0], worse.vectors[0]
    assert judged[FEATURE_INDEX["target_surprise"]] == 0.0 < alone[FEATURE_INDEX["target_surprise"]]
    assert judged[FEATURE_INDEX["action_surprise"]] == alone[FEATURE_INDEX["action_surprise"]] > 0.0
    assert judged[FEATURE_INDEX["write_surprise"]] > 0.0


def test_outcomes_and_sizes_of_a_known_action_count_each_time(one: Callable[..., ScoredBatch]) -> None:
    """Also where the action itself has counted: that it is rare says nothing of how it ends."""
    plain = one(0, action="login")
    failed = one(1, action="login", outcome="error")
    again = one(2, action="login", outcome="error")
    assert plain.p_values[0] <= evidence_dedup.EVIDENCE_P_VALUE
    for scored in (failed, again):
        judged = scored.effective_vectors([0])[0]
        assert judged[FEATURE_INDEX["action_surprise"]] == 0.0 < scored.vectors[0, FEATURE_INDEX["action_surprise"]]
        assert judged[FEATURE_INDEX["outcome_surprise"]] == scored.vectors[0, FEATURE_INDEX["outcome_surprise"]] > 0.0
        assert scored.p_values[0] <= evidence_dedup.EVIDENCE_P_VALUE


def test_a_count_over_hours_counts_by_whole_deviations(one: Callable[..., ScoredBatch]) -> None:
    """A busy hour is one observation: its volume counts at two deviations and at three, not between and not below."""
    volume = FEATURE_INDEX["volume_1h"]
    runs = [one(minute) for minute in range(27)]
    z = np.array([run.vectors[0, volume] for run in runs])
    judged = np.array([run.effective_vectors([0])[0, volume] for run in runs])
    (two, *rest), (three, *_) = np.flatnonzero((z >= 2) & (z < 3)), np.flatnonzero(z >= 3)
    assert len(rest) > 5
    assert judged[two] == z[two] and judged[three] == z[three]
    assert not judged[rest].any()
    after = one(50)
    assert 2.0 < after.vectors[0, volume] < 3.0 and after.effective_vectors([0])[0, volume] == 0.0


def test_a_place_that_counted_does_not_silence_the_session(one: Callable[..., ScoredBatch]) -> None:
    """What strange targets add to a session stays, where only the network has counted."""
    elsewhere = {"client": {"asn": 64999}}
    one(0, **elsewhere)
    for number in range(3):
        one(1 + number, **elsewhere, session="odd", resource={"target": f"stranger-{number}.example"})
    last = one(5, **elsewhere, session="odd", resource={"target": "stranger-9.example"})
    assert last.effective_vectors([0])[0, FEATURE_INDEX["network_surprise"]] == 0.0
    for name in ("session_strangeness", "target_surprise"):
        assert last.effective_vectors([0])[0, FEATURE_INDEX[name]] == last.vectors[0, FEATURE_INDEX[name]] > 0.0


def test_a_day_is_a_day_by_either_clock(kit: Any, make: Any) -> None:
    """A date that is put back keeps no name quiet: the arrival counts where it is later."""
    engine: Engine = kit.processor(capacity=100).engine
    engine.score(kit.columns(make.stream(2, 1_500, start_ms=make.START_MS + 20 * DAY)))
    start = make.START_MS + 30 * DAY
    p_values = []
    for number in range(3):
        made = make.event(number, 1, start + number * 60 * MINUTE, session=f"d-{number}", **STRANGER)
        received = np.array([start + number * 2 * DAY], np.int64)
        p_values.append(float(engine.score(kit.columns([made]), received).p_values[0]))
    assert max(p_values) <= ODD


def test_a_release_forgets_what_has_counted(one: Callable[..., ScoredBatch]) -> None:
    """Who vouches for an agent by mistake hears of it again as soon as it goes on."""
    first = one(0, **STRANGER)
    slot = int(first.slots[0])
    engine: Engine = one.engine  # type: ignore[attr-defined]
    risk_levels.release(engine.risk[slot], int(first.columns.time_ms[0]), engine.risk_parameters)
    assert one(1, **STRANGER).p_values[0] <= ODD


def test_forged_events_mark_nothing(one: Callable[..., ScoredBatch]) -> None:
    """Who sends events in an agent's name can not make its target one that has counted."""
    one(0, **STRANGER, agent_self_asserted=True)
    assert one(1, **STRANGER).p_values[0] <= ODD


def test_what_counted_first_gives_way(one: Callable[..., ScoredBatch]) -> None:
    """The memory of an agent is bounded: a flood of names makes old ones count again, and each name of it counts."""
    one(0, **STRANGER)
    for number in range(1, risk_levels.MAX_COUNTED_NAMES + 1):
        one(number, resource={"target": f"stranger-{number}.example", "external": True})
    assert one(risk_levels.MAX_COUNTED_NAMES + 2, **STRANGER).p_values[0] <= ODD


def test_within_one_minute_the_latest_are_remembered_all_the_same(one: Callable[..., ScoredBatch]) -> None:
    """A backlog of a day arrives in a minute: order says which name counted first."""
    strangers = [
        {"resource": {"target": f"stranger-{number}.example", "external": True}}
        for number in range(risk_levels.MAX_COUNTED_NAMES + 4)
    ]
    day = 24 * 60
    for number, stranger in enumerate(strangers):
        one(30 * number, day, **stranger)
    assert all(one(day, day, **stranger).p_values[0] > ODD for stranger in strangers[-3:])
    assert one(day, day, **strangers[0]).p_values[0] <= ODD


def test_nothing_is_left_of_what_follows_from_a_name() -> None:
    """Composites are made anew of what is left; other features stay."""
    vectors = np.full((2, FEATURE_COUNT), 5.0)
    masks = np.array([1 << layout.K_TARGET, 1 << layout.K_NETWORK], np.uint32)
    left = evidence_dedup.suppress_counted(vectors, masks, masks, np.zeros((2, 16), np.int8))
    gone = [{FEATURE_NAMES[index] for index in np.flatnonzero(row == 0.0)} for row in left]
    assert {"target_surprise", "action_target_surprise", "external_target", "session_strangeness"} <= gone[0]
    assert {"network_surprise", "identity_shift"} <= gone[1]
    assert left[0, FEATURE_INDEX["bytes_out"]] == left[1, FEATURE_INDEX["target_surprise"]] == 5.0
    assert (vectors == 5.0).all()


@pytest.mark.parametrize("fresh", [False, True])
def test_each_bit_takes_what_the_declarations_say(*, fresh: bool) -> None:
    """One bit at a time, and of many together what each takes; features made of others are held by other tests."""
    made = np.array([bool(feature.parts) for feature in FEATURES])
    bits = 1 << np.arange(layout.KINDS, dtype=np.uint32)
    masks = np.append(bits, bits.sum(dtype=np.uint32))
    new = masks if fresh else np.zeros_like(masks)
    vectors, codes = np.full((len(masks), FEATURE_COUNT), 5.0), np.zeros((len(masks), 16), np.int8)
    gone = evidence_dedup.suppress_counted(vectors, masks, new, codes) == 0.0
    for kind in range(layout.KINDS):
        own = {at for at, feature in enumerate(FEATURES) if is_named(feature, kind)}
        least = own | {at for at, feature in enumerate(FEATURES) if kind in feature.gathers}
        if fresh:
            least |= {at for at, feature in enumerate(FEATURES) if kind in feature.gathers_new}
            least |= {at for at, feature in enumerate(FEATURES) if own and kind in feature.new_with}
        assert set(np.flatnonzero(gone[kind] & ~made).tolist()) == {at for at in least if not made[at]}, kind
    assert (gone[-1] == gone[:-1].any(axis=0))[~made].all()


def is_named(feature: Feature, kind: int) -> bool:
    """Tell whether a feature is odd because of the name of an item of this kind."""
    counts = any(
        isinstance(one.explanation, Item) and one.explanation.kind == kind and one.counts == ONCE for one in FEATURES
    )
    own = isinstance(feature.explanation, Item) and feature.explanation.kind == kind and feature.counts == ONCE
    flow = feature.name in ("argument_origin", "argument_route", "sensitive_route") and kind == layout.K_ARGUMENT
    return own or flow or (counts and kind in feature.restates)
