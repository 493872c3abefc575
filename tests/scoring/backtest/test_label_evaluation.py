"""Figures equal scikit-learn's; label files; delays worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.backtest.challenge_counts import NOT_ASKED
from trustwatch.scoring.backtest.counts import EVENT_ROW
from trustwatch.scoring.backtest.label_evaluation import bootstrap_bands, detection_curve, evaluate_labels
from trustwatch.scoring.backtest.plan import EventLabel, EventLabels, read_labels
from trustwatch.scoring.records.agents import RiskLevel


@pytest.mark.parametrize("seed", range(20))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    """Area, average precision and recall at few false positives, with and without ties."""
    dice = np.random.default_rng(seed)
    n = int(dice.integers(5, 400))
    bad = np.r_[True, False, dice.random(n) < dice.random()]
    scores = np.round(dice.random(n + 2) + 0.3 * bad, int(dice.integers(1, 6)))
    found = detection_curve(bad, scores)
    assert found is not None
    assert found.area == pytest.approx(roc_auc_score(bad, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(bad, scores), abs=1e-12)
    false, true, _ = roc_curve(bad, scores, drop_intermediate=False)
    for share in (0.01, 0.05, 0.5):
        assert found.recall_at(share) == pytest.approx(true[false <= share].max(), abs=1e-12)
    thinned = found.thinned(40)
    assert len(thinned.recall) <= 42 and thinned.recall[-1] == thinned.false_positive_rate[-1] == 1.0
    assert set(zip(thinned.false_positive_rate, thinned.recall, strict=True)) <= set(
        zip(found.false_positive_rate, found.recall, strict=True)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_is_what_one_counts_at_each_threshold(seed: int) -> None:
    """Shares of bad and good units at or above each score, strictest first; the area is that of pairs, ties half."""
    dice = np.random.default_rng(seed)
    bad = np.r_[True, False, dice.random(60) < 0.3]
    scores = np.round(dice.random(62) + 0.3 * bad, 1 + seed)
    found = detection_curve(bad, scores)
    assert found is not None
    reached = [scores >= threshold for threshold in sorted(set(scores.tolist()), reverse=True)]
    assert found.recall.tolist() == [(bad & above).sum() / bad.sum() for above in reached]
    assert found.false_positive_rate.tolist() == [(~bad & above).sum() / (~bad).sum() for above in reached]
    assert found.precision.tolist() == [(bad & above).sum() / above.sum() for above in reached]
    above, equal = (compare(*np.ix_(scores[bad], scores[~bad])) for compare in (np.greater, np.equal))
    assert found.area == pytest.approx((above + equal / 2).mean(), abs=1e-12)


def rows(*made: tuple[int, float, int, int]) -> Any:
    """Rows of (label, anomaly, level before, level after), ten seconds apart."""
    out = np.zeros(len(made), EVENT_ROW)
    for at, (label, anomaly, rested, level) in enumerate(made):
        out[at] = (at, 10_000 * at, label, anomaly, 0.5, 0.0, rested, level, NOT_ASKED, False)
    return out


def test_delays_begin_at_the_first_bad_event() -> None:
    """A session's delay is counted from its first bad event, in its own events; one that was up before is apart."""
    low, medium, high = RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH
    names = [
        EventLabel("a0", "bad"),
        EventLabel("a1", "bad", 1, 1),
        EventLabel("a2", "bad", 1, 1),
        EventLabel("a3", "bad", 1, 1),
        EventLabel("b0", "good"),
        EventLabel("c0", "up", 1, 1),
        EventLabel("d0", "missed", 1, 1),
    ]
    labels = EventLabels(names, {label.id: at for at, label in enumerate(names)})
    told = evaluate_labels(
        rows(
            (0, 0.1, low, low),
            (1, 0.8, low, low),
            (4, 0.2, low, medium),
            (-1, 0.9, low, low),
            (2, 0.9, low, medium),
            (3, 0.7, medium, high),
            (5, 0.6, medium, medium),
            (6, 0.3, low, low),
        ),
        labels,
    )
    assert (told.labelled, told.without_label, told.without_event) == (7, 1, 0)
    medium_told, high_told, critical_told = told.levels
    assert (medium_told.sessions, medium_told.detected, medium_told.already) == (3, 1, 1)
    assert medium_told.delay_events == (1.0, 1.0) and medium_told.delay_seconds == (30.0, 30.0)
    assert (medium_told.true_alerts, medium_told.false_alerts) == (1, 1)
    assert (high_told.detected, high_told.already, high_told.delay_events) == (1, 0, (2.0, 2.0))
    assert (critical_told.detected, critical_told.delay_seconds) == (0, None)
    assert (told.by_session.units, told.by_session.bad, told.by_event.units, told.by_event.bad) == (4, 3, 7, 5)
    assert told.by_session.roc_auc == 1.0 and told.delays_seconds == [30.0]


def test_label_files(tmp_path: Path) -> None:
    """Read as simulators and traces write them; what is wrong is said with its place."""
    path = tmp_path / "labels.jsonl"
    line = {"id": "e-1", "session": "s", "event_label": 1, "session_label": 1, "class": "hijacked", "more": [1]}
    resisted = {"id": "e-2", "class": "resisted"}
    path.write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n{json.dumps(resisted)}\n")
    assert read_labels(path).rows == {"e-1": 0, "e-2": 1}
    assert read_labels(path, ["resisted"]).labels == [EventLabel("e-1", "s", 1, 1, "hijacked")]
    path.write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'event_label': 0})}\n")
    with pytest.raises(ConfigError, match=r"record 2: event `e-1` has another label before"):
        read_labels(path)
    path.write_text('{"session": "s"}\n')
    with pytest.raises(ConfigError, match=r"labels.jsonl, record 1: not a label.*`id`"):
        read_labels(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="no labels"):
        read_labels(path)


def test_bands_hold_the_truth_and_narrow_with_more_units() -> None:
    """95 of 100 samples of two normal distributions: the interval has the true ROC-AUC; more units say more."""
    truth, inside, widths = 0.7602499389065233, 0, []  # Phi(1 / sqrt 2)
    for size in (200, 1_600):
        for seed in range(30):
            dice = np.random.default_rng(seed)
            bad = dice.random(size) < 0.2
            scores = dice.normal(size=size) + bad
            found = bootstrap_bands(bad, scores, np.random.default_rng(seed + 1))
            plain = detection_curve(bad, scores)
            assert found is not None and plain is not None
            assert found.area[0] <= plain.area <= found.area[1]
            assert found.average_precision[0] <= plain.average_precision * 1.02
            assert np.all(found.recall[0] <= found.recall[1]) and np.all(np.diff(found.recall[0]) >= -1e-12)
            inside += found.area[0] <= truth <= found.area[1]
        widths.append(found.area[1] - found.area[0])
    assert inside >= 52  # of 60
    assert widths[1] < 0.6 * widths[0]
