"""The detection benchmark's own arithmetic: figures, thresholds, documents, rules."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.bench_detection import FIGURES, PAGE, PARTS, write_part
from benchmarks.detection import contamination, count_features, evidence_methods, metrics, other_detectors
from benchmarks.detection.agent_age import ages
from benchmarks.detection.page_tables import NOT_ON_THE_PAGE, for_page
from benchmarks.detection.report import FigureTable, markdown, replace_marked_part


def test_figures_agree_with_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(3)
    bad = rng.random(500) < 0.2
    scores = np.round(rng.normal(size=500) + bad, 1)

    found = metrics.figures(bad, scores)[0]

    assert found[metrics.AUC] == pytest.approx(roc_auc_score(bad, scores))
    assert found[metrics.AP] == pytest.approx(average_precision_score(bad, scores))


def test_recall_counts_what_lies_above_the_allowed_false_positives() -> None:
    """100 good units: one may be above at 1 %, five at 5 %."""
    bad = np.r_[np.zeros(100, bool), np.ones(4, bool)]
    scores = np.r_[np.arange(100.0), 98.5, 97.5, 95.5, 10.5]

    found = metrics.figures(bad, scores)[0]

    assert found[metrics.R1] == 0.25
    assert found[metrics.R5] == 0.75


def test_weights_stand_for_repeated_units() -> None:
    bad, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.3, 0.1])

    weighed = metrics.figures(bad, scores, np.array([[2.0, 1.0, 1.0, 3.0]]))
    repeated = metrics.figures(np.repeat(bad, [2, 1, 1, 3]), np.repeat(scores, [2, 1, 1, 3]))

    np.testing.assert_allclose(weighed, repeated)


def test_intervals_draw_sessions_and_not_events() -> None:
    """Ten copies of every event in the same session make nothing more certain."""
    rng = np.random.default_rng(5)
    bad, scores = np.arange(40) < 12, rng.normal(size=40)

    single = metrics.measure(bad, scores, np.arange(40), draws=300)
    copied = metrics.measure(np.repeat(bad, 10), np.repeat(scores, 10), np.repeat(np.arange(40), 10), draws=300)

    assert copied.high[metrics.AUC] - copied.low[metrics.AUC] == pytest.approx(
        single.high[metrics.AUC] - single.low[metrics.AUC]
    )


def test_a_threshold_lets_no_more_blocks_pass_than_allowed() -> None:
    statistic, blocks = np.array([1.0, 5.0, 2.0, 9.0, 3.0]), np.array([0, 0, 1, 2, 3])

    limit = evidence_methods.threshold(statistic, blocks, allowed=1)

    assert limit == 5.0
    assert np.unique(blocks[statistic > limit]).tolist() == [2]


def test_ages_count_the_events_of_the_same_agent_before() -> None:
    assert ages(np.array([4, 7, 4, 4, 7])).tolist() == [0, 0, 1, 2, 1]


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "figures.md"
    document.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\n<!-- begin b -->\nkept\n<!-- end b -->\n")

    replace_marked_part(document, "a", markdown([FigureTable("T", ("x",), [(0.5,)])]))

    text = document.read_text()
    assert "| 0.500 |" in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("<!-- begin b -->\nkept\n<!-- end b -->\n")
    with pytest.raises(SystemExit, match="begin c"):
        replace_marked_part(document, "c", "x")


def event(agent: str, action: str, resource: str, task: str = "t", session: str = "s") -> count_features.Event:
    return {
        "agent": {"id": agent, "type": "helper"},
        "action": action,
        "resource": {"id": resource},
        "task": task,
        "session": session,
        "outcome": "success",
    }


def test_the_first_seen_rule_counts_what_is_new_in_its_scope() -> None:
    history = [event("a", "read", "x"), event("b", "write", "y")]
    asked = [event("a", "read", "x"), event("a", "write", "x"), event("a", "send", "z"), event("c", "read", "x")]

    by_type = other_detectors.EVENT_DETECTORS["rule: first seen in the agent type"](history)(asked)
    by_agent = other_detectors.EVENT_DETECTORS["rule: first seen by the agent"](history)(asked)

    assert by_type.tolist() == [0.0, 0.0, 2.0, 0.0]
    assert by_agent.tolist() == [0.0, 1.0, 2.0, 2.0]


def test_counts_per_session_have_a_column_for_what_the_history_did_not_show() -> None:
    history = [event("a", "read", "x"), event("a", "read", "y"), event("a", "write", "x", session="s2")]
    rows = count_features.by_session(history)

    known, at = rows(history)
    strange, _ = rows([event("a", "dance", "x")])

    assert at.tolist() == [0, 0, 1]
    assert known.shape[1] == strange.shape[1]
    unknown = count_features.Vocabulary(history).width - 1
    assert known[:, unknown].tolist() == [0.0, 0.0] and strange[0, unknown] == 1.0


def test_bad_sessions_are_mixed_into_the_history_in_order_of_time() -> None:
    def line(session: str, second: int) -> bytes:
        made = {**event("a", "read", "x", session=session), "time": f"2026-01-05T09:00:{second:02d}.000Z"}
        return json.dumps(made).encode()

    bad = [line("evil", 40), line("evil", 47)]
    mixed = [
        json.loads(raw) for raw in contamination.mixed([line("s", 1), line("s", 8)], bad, np.random.default_rng(0))
    ]

    times = [made["time"] for made in mixed]
    assert times == sorted(times) and len(mixed) == 4
    evil = [made["time"] for made in mixed if made["session"] == "evil"]
    assert evil[0] in ("2026-01-05T09:00:01.000Z", "2026-01-05T09:00:08.000Z")


def test_the_page_and_the_figures_have_a_place_for_every_part() -> None:
    """`--write` would end with an error at the first part without marks."""
    parts = set(re.findall(r"<!-- begin (\w+) -->", PAGE.read_text()))
    assert parts == set(PARTS) - set(NOT_ON_THE_PAGE)
    assert {path.stem.rpartition("-")[0] for path in FIGURES.glob("*.csv")} == set(PARTS)


def test_the_page_has_a_short_form_and_the_figures_all(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin attacks -->\n<!-- end attacks -->\n")
    (tmp_path / "attacks-3.csv").write_text("of an earlier run")
    names = ("attack", "what happens", "noticed", "malicious events until noticed", "of")
    row = ("burst", "hundreds of actions, at once", 0.5, "8", "788")
    tables = [FigureTable(title, names, [row], "A note.") for title in "AB"]

    write_part("attacks", tables, page=page, figures=tmp_path)

    assert {path.name for path in tmp_path.glob("*.csv")} == {"attacks-1.csv", "attacks-2.csv"}
    text = (tmp_path / "attacks-2.csv").read_text()
    assert text.startswith("# B\n# A note.\n# Measured on ")
    read = pandas.read_csv(io.StringIO(text), comment="#").iloc[0]
    assert (read["what happens"], read["noticed"], read["of"]) == ("hundreds of actions, at once", 0.5, 788)
    assert "| burst | 0.500 | 8 | 788 |" in page.read_text() and "**B**" not in page.read_text()


def test_one_table_compares_scores_over_the_sets() -> None:
    names = ("score", "ROC-AUC", "recall at 5 % FP")
    sets = [
        FigureTable(f"{name}, per session: 1 bad", names, [("agentnorm 0.2", "0.8 (0.7 to 0.9)", "0.3 (0.2 to 0.4)")])
        for name in ("x", "y")
    ]

    (table,) = for_page("side_by_side", sets)

    assert table.columns == ("score", "x", "y")
    assert table.rows == [("agentnorm 0.2", "0.8/0.3", "0.8/0.3")]


def test_intervals_on_the_page_are_short() -> None:
    tables = [
        FigureTable(
            "T", ("judged", "ROC-AUC"), [("x", "0.981 (0.96 to 0.99; 0.002)"), ("y", 0.5)], "Median (interval; spread)."
        )
    ]

    (table,) = for_page("new_tasks", tables)

    assert table.rows == [("x", "0.981 (0.96–0.99)"), ("y", 0.5)]
    assert table.note == "Median (interval)."
