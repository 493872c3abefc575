"""Every call gives the frame that is declared for it, with rows and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from trustwatch.lab import LabSession, frames
from trustwatch.lab.frame_builder import build_frame
from trustwatch.lab.frame_columns import COLUMN_DTYPES, FRAME_COLUMNS, LEVEL_NAMES

Ask = Callable[[LabSession, dict[str, Any]], Any]


def worst(session: LabSession) -> Any:
    """The decision to look at first."""
    return frames.worst_decision(frames.decisions(session))


ASKED: dict[str, Ask] = {
    "agents": lambda session, day: frames.agents(session),
    "decisions": lambda session, day: frames.decisions(session),
    "alerts": lambda session, day: frames.alerts(session, **day),
    "events": lambda session, day: frames.events(session, **day),
    "scores": lambda session, day: frames.scores(session, **day),
    "vectors": lambda session, day: frames.vectors(session, agent=worst(session)),
    "risk_history": lambda session, day: frames.risk_history(session, worst(session)),
    "reasons": lambda session, day: frames.reasons(session, worst(session)),
    "contributions": lambda session, day: frames.contributions(session, worst(session)),
    "profile": lambda session, day: frames.profile(session, worst(session)),
    "habits": lambda session, day: frames.habits(frames.events(session, worst(session))),
    "comparison": lambda session, day: frames.comparison(
        frames.events(session, worst(session)),
        frames.events(session, frames.find_peer(frames.agents(session), worst(session))),
    ),
    "distances": lambda session, day: frames.distances(ASKED["comparison"](session, day)),
    "versions": lambda session, day: frames.versions(frames.events(session)),
    "edges": lambda session, day: frames.edges(session),
    "blast_radius": lambda session, day: frames.blast_radius(session, "agent-orchestrator-0", tenant="acme-corp"),
    "labels": lambda session, day: frames.labels(session),
    "features": lambda session, day: frames.features(session.model()),
    "groups": lambda session, day: frames.groups(session.model()),
    "calibration": lambda session, day: frames.calibration(session.model()),
    "reliability": lambda session, day: frames.reliability(frames.scores(session, **day)),
}


def assert_declared(name: str, found: Any) -> None:
    """Columns in their order, and the dtype of each."""
    assert list(found.columns) == [column.name for column in FRAME_COLUMNS[name]]
    declared = {column.name: COLUMN_DTYPES[column.kind] for column in FRAME_COLUMNS[name]}
    assert {column: str(found[column].dtype) for column in found.columns} == declared
    for column in FRAME_COLUMNS[name]:
        if column.kind == "level":
            assert found[column.name].cat.ordered
            assert tuple(found[column.name].cat.categories) == LEVEL_NAMES


@pytest.mark.integration
@pytest.mark.parametrize("name", ASKED)
def test_frames_are_as_declared(name: str, session: LabSession, day: dict[str, Any]) -> None:
    """With the example's rows."""
    found = ASKED[name](session, day)
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
