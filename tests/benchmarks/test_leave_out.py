"""The split, the choice and the intervals of the figures that nothing was chosen on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.detection import metrics, setting_choice
from benchmarks.detection.leave_out import JudgedReplays, Training, leave_out_cases
from benchmarks.detection.metrics import expected_recall, group_interval
from benchmarks.detection.setting_choice import FAMILIES, DetectorChoice, climb
from benchmarks.detection.split_trace import leave_assistants_out
from benchmarks.detection.traces import LEAST_TASKS
from trustwatch.ingest.features.feature_table import FEATURES

from ..support.trace_sets import assistants_of, trace


def test_the_history_of_a_left_out_assistant_does_not_know_it() -> None:
    """Neither the part that is judged nor the one that is chosen on has it in its history."""
    for left in leave_assistants_out(trace("set", ("bank", "chat", "shop"))):
        others = {"bank", "chat", "shop"} - {left.assistant}

        assert assistants_of(left.judged.train) == assistants_of(left.others.train) == others
        assert assistants_of(left.judged.test) == {left.assistant}
        assert assistants_of(left.others.test) == others
        assert [label["session"] for label in left.judged.labels] == [
            event["session"] for event in left.judged.test_events
        ]


def test_sets_with_one_assistant_to_judge_have_none_left_out() -> None:
    """An assistant with hardly any bad session has no figure, and a set needs two that have."""
    assert leave_assistants_out(trace("set", ("bank",))) == []
    assert leave_assistants_out(trace("set", ("bank", "chat"), sessions=30)) == []


def test_nothing_is_chosen_on_what_is_judged() -> None:
    """No case's settings are chosen on a set whose test events it judges."""
    sets = [trace("one", ("bank", "chat")), trace("two", ("shop",)), trace("three", ("code",))]

    cases = leave_out_cases(sets)

    assert [case.name for case in cases] == ["one", "two", "three", "one, bank", "one, chat"]
    for case in cases:
        judged = set(case.judged.test)
        assert case.chosen_on
        for other in case.chosen_on:
            assert other.name != case.judged.name or not judged & set(other.test)
            assert other.name != case.judged.name or "," in case.name  # a whole set is chosen on other sets alone


def test_every_training_draws_its_own_salt_and_seed() -> None:
    """Trainings that shared either would agree for want of trying."""
    trainings = [Training(number) for number in range(4)]

    assert len({training.salt for training in trainings}) == 4
    assert len({training.settings().seed for training in trainings}) == 4
    chosen = trainings[2].settings(DetectorChoice(norm=2, forest_weight=0.05))
    assert (chosen.norm, chosen.forest_weight, chosen.seed) == (2, 0.05, 2)


def test_settings_move_to_what_the_figure_favours_and_stay_where_it_is_chance() -> None:
    """A family that harms is left out, one that moves the figure less than the least gain keeps its scale."""
    harmful, indifferent = FAMILIES.index("pace"), FAMILIES.index("order")

    def figure(choice: DetectorChoice) -> float:
        gain = 0.1 * (1.0 - choice.scales[harmful]) + setting_choice.LEAST_GAIN / 2 * (1.0 - choice.scales[indifferent])
        return gain + (0.05 if choice.norm == 64 else 0.0)

    found = climb(DetectorChoice(), figure)

    expected = list(DetectorChoice().scales)
    expected[harmful] = 0.0
    assert found == replace(DetectorChoice(), scales=tuple(expected), norm=64)
    weights = found.importance()
    assert all(weights[at] == (feature.family != "pace") for at, feature in enumerate(FEATURES))


def test_intervals_are_drawn_over_tasks_where_there_are_enough() -> None:
    """Units of one task are one draw: the group of a unit is its task, or its session where tasks are few."""
    many, few = trace("set", ("bank",), tasks=LEAST_TASKS), trace("set", ("bank",), tasks=LEAST_TASKS - 1)

    assert many.groups[:3] == ["task_0", "task_1", "task_2"] and len(set(many.groups)) == LEAST_TASKS
    assert len(set(few.groups)) == len(few.units.bad)


def test_an_interval_over_few_groups_is_wider_than_one_over_their_units() -> None:
    """Figures that differ by task are as uncertain as tasks are few, however many sessions each has."""
    rng = np.random.default_rng(1)
    task = np.repeat(np.arange(20), 30)
    bad = np.arange(600) % 2 == 0
    scores = rng.normal(size=600) + bad * rng.normal(1.0, 2.0, size=20)[task]

    by_task = group_interval(task, lambda counts: metrics.figures(bad, scores, counts), draws=300)
    by_unit = group_interval(np.arange(600), lambda counts: metrics.figures(bad, scores, counts), draws=300)

    width, narrow = by_task[1] - by_task[0], by_unit[1] - by_unit[0]
    assert width[metrics.AUC] > 2 * narrow[metrics.AUC]
    value = metrics.figures(bad, scores)[0]
    assert (by_task[0] <= value).all() and (value <= by_task[1]).all()


def test_the_interval_of_several_trainings_holds_their_median() -> None:
    """The spread of trainings is told apart from the interval, which is of their median."""
    judged = trace("set", ("bank",))
    rng = np.random.default_rng(2)
    scores = judged.units.bad + rng.normal(size=(5, len(judged.units.bad)))
    replays = JudgedReplays(judged, scores, np.ones(scores.shape, np.int64))

    low, high = replays.interval(draws=200)

    median = np.median(replays.values(), axis=0)
    assert (low <= median).all() and (median <= high).all() and (low < high).all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15])
def test_recall_with_ties_is_the_mean_over_their_orders(share: float) -> None:
    """Twenty good units, two of which have the score of all bad ones: one, two and three of them may pass."""
    bad = np.r_[np.zeros(20, bool), np.ones(6, bool)]
    scores = np.r_[np.arange(18.0) / 100, np.full(8, 5.0)]
    rng = np.random.default_rng(0)

    found = []
    for _ in range(4000):
        shuffled = rng.permutation(26)
        rank = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        found.append((bad[rank] & (np.cumsum(~bad[rank]) <= share * 20 + 1e-9)).sum() / 6)

    assert expected_recall(bad, scores, share) == pytest.approx(np.mean(found), abs=0.02)
