"""History through the live path: order kept, everything counted, and frozen when asked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.file_source import FileSource
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.pipeline.replay import EXPLAINED_P_VALUE, HistoryReplay, ReplayedEvent, ReplaySummary


def replay(
    kit: Any, path: Path, **settings: Any
) -> tuple[list[ReplayedEvent], list[tuple[int, str, str]], ReplaySummary]:
    run = HistoryReplay(kit.model, EngineSettings(**{"capacity": 100, **settings}))
    bad: list[tuple[int, str, str]] = []
    source = FileSource([path])
    lines = list(run.replayed_events(source, lambda *letter: bad.append(letter)))
    source.close()
    return lines, bad, run.summary()


@pytest.fixture
def history(tmp_path: Path, make: Any) -> Path:
    events = make.stream(8, 1_500, agents=20, odd=0.1)
    text = [json.dumps(made) for made in events]
    text[700] = '{"time": "never"}'
    text.insert(900, text[899])
    path = tmp_path / "history.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(text).encode()))
    return path


def test_input_order_is_kept_and_all_is_counted(kit: Any, make: Any, history: Path) -> None:
    """One line per event in input order; malformed and repeated records are told and counted."""
    lines, bad, summary = replay(kit, history)
    expected = [made["id"] for made in make.stream(8, 1_500, agents=20, odd=0.1)]
    del expected[700]
    assert [line.id for line in lines] == expected
    assert [letter[0] for letter in bad] == [700]
    assert (summary.events, summary.malformed, summary.duplicates) == (1_499, 1, 1)
    assert summary.decisions
    assert all(0.0 <= line.anomaly_score <= 1.0 and 0.0 < line.p_value <= 1.0 for line in lines)


def test_p_values_are_those_that_evidence_rests_on(kit: Any, history: Path) -> None:
    """A name that has counted is odd no more, while score and reasons go on to tell of the event by itself."""
    lines, _, summary = replay(kit, history)
    by_id = {line.id: line for line in lines}
    judged = [(one, by_id[one.event_id]) for one in summary.decisions if one.event_id in by_id]
    assert judged and all(one.p_value == line.p_value for one, line in judged)
    explained = [line for line in lines if line.reasons]
    least = [min(line.p_value, *(one.p_value for one in line.concerns.values())) for line in explained]
    assert min(least) <= EXPLAINED_P_VALUE < max(least)
