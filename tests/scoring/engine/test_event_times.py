"""What does not come as it happens is counted and told: old events, the model's own history, pressed times."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import structlog

from trustwatch.ingest.source import Record, RecordBatch
from trustwatch.scoring.engine.agent_paces import EventTimes

DAY = 86_400_000


def watched(kit: Any, batches: list[list[Record]]) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Counts and lines of the log of records that one partition applied, batch by batch."""
    processor, counts, offset = kit.processor(), Counter[str](), 0
    times = EventTimes(3, counts)
    with structlog.testing.capture_logs() as lines:
        for records in batches:
            applied = processor.apply(RecordBatch(0, offset, records))
            offset += len(records)
            for scored, _ in applied.scored:
                times.note(scored, processor.engine.model)
    return counts, [line for line in lines if line["log_level"] == "warning"]


def workday(make: Any, agent: str, first_ms: int, step_ms: int, number: int) -> list[dict[str, Any]]:
    return [make.event(f"{agent}-{first_ms + at}", agent, first_ms + at * step_ms) for at in range(number)]


def test_events_of_now_are_neither_counted_nor_told(kit: Any, make: Any) -> None:
    after = kit.model.window_ms[1] + DAY
    events = workday(make, "agent-1", after, 60_000, 50)
    assert watched(kit, [kit.records(events)]) == (Counter(), [])


def test_old_events_are_told_once_an_hour_with_the_time_of_the_oldest(kit: Any, make: Any) -> None:
    after = kit.model.window_ms[1] + DAY
    events = workday(make, "agent-1", after, 60_000, 20)
    counts, lines = watched(
        kit,
        [kit.records(events[:10], received_ms=after + 3 * DAY), kit.records(events[10:], received_ms=after + 3 * DAY)],
    )
    assert counts == {"old_events": 20, "known_events": 0}
    assert [line["oldest"] for line in lines] == [make.stamp(after)[:19] + "Z"]
    assert "train" in lines[0]["advice"]
    assert "twice" not in lines[0]["advice"]


def test_events_that_the_model_has_learned_from_are_counted_apart(kit: Any, make: Any) -> None:
    end = kit.model.window_ms[1]
    events = [make.event(1, "agent-1", end - 5_000), make.event(2, "agent-1", end + 5_000)]
    counts, [line] = watched(kit, [kit.records(events, received_ms=end + 3 * DAY)])
    assert counts == {"old_events": 2, "known_events": 1}
    assert "count twice" in line["advice"]


@pytest.mark.parametrize(("hasty", "told"), [(6, True), (2, False)])
def test_times_that_were_pressed_together_are_told_where_most_agents_are_in_haste(
    kit: Any, make: Any, hasty: int, told: bool
) -> None:
    """An agent alone that does days of work within an hour is a finding, not a mistake of the sender."""
    first = kit.model.window_ms[1] + DAY
    agents = [f"worker-{number}" for number in range(7)]
    lived = [event for agent in agents for event in workday(make, agent, first, DAY // 10, 31)]
    then = first + 5 * DAY
    pressed = [event for agent in agents[:hasty] for event in workday(make, agent, then, 10_000, 60)]
    quiet = [make.event(f"{agent}-quiet", agent, then + 1_000) for agent in agents[hasty:]]
    counts, lines = watched(kit, [kit.records(sorted(lived, key=lambda e: e["time"])), kit.records(quiet + pressed)])
    assert (counts["hasty_events"] > 0) == told
    assert [(line["agents"], line["in_haste"]) for line in lines] == ([(7, hasty)] if told else [])
