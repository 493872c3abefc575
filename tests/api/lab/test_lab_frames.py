"""Every method gives the frame that is declared for it, with rows and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from trustwatch.lab.facade import LabSession
from trustwatch.lab.frame_builder import build_frame, dtypes
from trustwatch.lab.frame_columns import COLUMN_DTYPES, FRAME_COLUMNS, LEVEL_NAMES

Ask = Callable[[LabSession, dict[str, Any]], Any]

ASKED: dict[str, Ask] = {
    "agents": lambda lab, day: lab.agents(),
    "decisions": lambda lab, day: lab.decisions(),
    "alerts": lambda lab, day: lab.alerts(**day),
    "events": lambda lab, day: lab.events(**day),
    "scores": lambda lab, day: lab.scores(**day),
    "vectors": lambda lab, day: lab.vectors(agent=lab.worst_decision()),
    "risk_history": lambda lab, day: lab.risk_history(lab.worst_decision()),
    "reasons": lambda lab, day: lab.reasons(lab.worst_decision()),
    "contributions": lambda lab, day: lab.contributions(lab.worst_decision()),
    "profile": lambda lab, day: lab.profile(lab.worst_decision()),
    "habits": lambda lab, day: lab.habits(lab.events(lab.worst_decision())),
    "comparison": lambda lab, day: lab.comparison(
        lab.events(lab.worst_decision()), lab.events(lab.find_peer(lab.worst_decision()))
    ),
    "distances": lambda lab, day: lab.distances(ASKED["comparison"](lab, day)),
    "versions": lambda lab, day: lab.versions(),
    "edges": lambda lab, day: lab.edges(),
    "blast_radius": lambda lab, day: lab.blast_radius("agent-orchestrator-0", tenant="acme-corp"),
    "labels": lambda lab, day: lab.labels(),
    "features": lambda lab, day: lab.model().features(),
    "groups": lambda lab, day: lab.model().groups(),
    "calibration": lambda lab, day: lab.model().calibration(),
    "reliability": lambda lab, day: lab.reliability(lab.scores(**day)),
}


def assert_declared(name: str, found: Any) -> None:
    """Columns in their order, and the dtype of each."""
    assert list(found.columns) == [column.name for column in FRAME_COLUMNS[name]]
    assert {column: str(found[column].dtype) for column in found.columns} == dtypes(name)
    for column in FRAME_COLUMNS[name]:
        if column.kind == "level":
            assert found[column.name].cat.ordered
            assert tuple(found[column.name].cat.categories) == LEVEL_NAMES


@pytest.mark.integration
@pytest.mark.parametrize("name", ASKED)
def test_frames_are_as_declared(name: str, lab: LabSession, day: dict[str, Any]) -> None:
    """With the example's rows."""
    found = ASKED[name](lab, day)
    assert len(found) > 0
    assert_declared(name, found)


@pytest.mark.parametrize("name", FRAME_COLUMNS)
def test_frames_without_rows_are_as_declared(name: str) -> None:
    """Nothing found is a frame, too: filters and pictures work on it."""
    assert_declared(name, build_frame(name, ()))


def test_every_column_says_what_it_means() -> None:
    """The declaration is the documentation."""
    for columns in FRAME_COLUMNS.values():
        assert len({column.name for column in columns}) == len(columns)
        assert all(column.kind in COLUMN_DTYPES and column.meaning for column in columns)


def test_times_are_utc_and_missing_ones_are_missing() -> None:
    """0 is no time of ours."""
    (row,) = build_frame("labels", [("e", "t", "a", "s", True, False, "x")]).itertuples()
    assert row.bad_event
    edges = build_frame("edges", [("called", "t", "a", "b", 1_767_657_600_123, 0, 0.5, None)])
    assert edges["first"][0] == pd.Timestamp("2026-01-06T00:00:00.123Z")
    assert edges["last"].isna().all()
    assert edges["risk_time"].isna().all()
