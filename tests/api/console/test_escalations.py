"""The steps of one agent's climb are one entry on the overview and among alerts; none is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.api.console.lists import MAX_STEP_INTERVAL_MS, LevelStep, group_escalations
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_payload
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.store.outbox_store import DeliveryRoute

NOW_MS = 1_764_000_000_000
LEVELS = ("unknown", "low", "medium", "high", "critical")


def shown(*steps: LevelStep | None) -> list[list[LevelStep | None]]:
    return [list(one.steps) for one in group_escalations(steps, lambda step: step)]


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        (LevelStep("a", 2, 3, 30), LevelStep("b", 1, 2, 10)),
        (LevelStep("a", 2, 1, 30), LevelStep("a", 1, 2, 10)),
        (LevelStep("a", 1, 2, 30), LevelStep("a", 2, 1, 10)),
        (LevelStep("a", 3, 4, 30), LevelStep("a", 1, 2, 10)),
        (LevelStep("a", 2, 3, MAX_STEP_INTERVAL_MS + 11), LevelStep("a", 1, 2, 10)),
    ],
    ids=["another agent", "a fall", "after a fall", "a step is missing", "long after"],
)
def test_what_is_no_climb_stays_apart(later: LevelStep, earlier: LevelStep) -> None:
    assert shown(later, earlier) == [[later], [earlier]]


def rise(site: Any, make_row: Any, make_decision: Any, agent: str, first: int) -> list[Any]:
    """low, medium, high, critical within seconds, as the pipeline would tell it; an alert of each."""
    row = make_row(agent, level=4, decision_id=f"d-{first + 2}")
    made = [
        make_decision(
            make_row(agent, level=2 + number),
            first + number,
            1 + number,
            decided_ms=NOW_MS + (first + number) * 1000,
            event_time_ms=NOW_MS + (first + number) * 1000,
        )
        for number in range(3)
    ]
    site.know(row, decisions=tuple(made))
    rows = [
        OutboxRow(
            f"alert-{one.decision_id}",
            "alert",
            "",
            build_alert_payload(one, {"allow": True}, "https://trust.example"),
            one.decided_ms,
            row.name.key,
            "first_seen_resource",
            one.level,
            "acme",
        )
        for one in made
    ]
    site.store.outbox.enqueue(rows)
    site.store.outbox.route([DeliveryRoute("soc", "alert", frozenset(range(5)), 0)], NOW_MS)
    return made


@pytest.mark.parametrize("path", ["/console/", "/console/overview", "/console/alerts"])
def test_pages_tell_a_climb_as_one_entry(
    new_site: Callable[..., Any], make_row: Any, make_decision: Any, path: str
) -> None:
    """With each step and a link to its decision; a second agent's climb is another entry."""
    site = new_site()
    made = rise(site, make_row, make_decision, "climber", 10)
    rise(site, make_row, make_decision, "other", 20)
    site.sign_in("trust-admins")
    text = site.browser.get(path).text
    entries = [row for row in re.findall(r"<tr>.*?</tr>", text, re.S) if "in 3 steps" in row]

    assert len(entries) == 2
    assert "other" in entries[0] and "climber" in entries[1]
    for one in made:
        assert entries[1].count(f'"/console/decisions/{one.decision_id}"') >= 1
        assert LEVELS[one.level] in entries[1]
    assert text.count(f'"/console/decisions/{made[0].decision_id}"') == 1
