"""Trends: days, cases and reasons on the page, and slow counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trustwatch.api.decisions import trends
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch.scoring.store.decision_store import CountedChanges

from ....support.console_records import NOW_MS

DAY_MS = 86_400_000
TODAY, YESTERDAY, LONG_AGO = "2025-11-24", "2025-11-23", "2025-10-05"


@pytest.fixture
def site(new_site: Callable[..., Any], make_row: Callable[..., Any], make_decision: Callable[..., Any]) -> Any:
    """Rises and falls of acme on three days, one rise of globex."""
    site = new_site()
    row, other, theirs = make_row("bot", level=3), make_row("bob", level=2), make_row("theirs", "globex", level=4)
    calm = make_row("bot", level=1)
    network = RiskReason("new_network", "network_surprise", "AS1", "AS2", 1.0, "first use of AS1")
    site.know(
        row,
        other,
        theirs,
        decisions=(
            make_decision(row, 1, decided_ms=NOW_MS),
            make_decision(other, 2, decided_ms=NOW_MS - 5_000),
            make_decision(calm, 3, before=3, decided_ms=NOW_MS - DAY_MS, reasons=()),
            make_decision(row, 4, decided_ms=NOW_MS - 50 * DAY_MS, reasons=(network,)),
            make_decision(theirs, 5, decided_ms=NOW_MS),
        ),
    )
    return site


def day_row(page: str, day: str) -> list[str]:
    """Cells of a day in the table under the drawing of changes: to medium, high, critical, fell."""
    table = page.partition('by the level they came to, as a table"')[2].partition("</table>")[0]
    row = table.partition(f">{day}</td>")[2].partition("</tr>")[0]
    return re.findall(r">([\d,]+)</td>", row)


def look(site: Any, **query: Any) -> str:
    """The page."""
    answer = site.browser.get("/console/trends", params=query)
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


def test_what_takes_too_long_is_counted_by_the_next_looks(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "MAX_LOOK_S", -1.0)
    site.sign_in("soc")
    page = look(site, days=90)
    assert "so far; what is older is being counted" in page and 'hx-trigger="load delay:500ms"' in page
    assert day_row(page, TODAY) == ["1", "1", "0", "0"] and day_row(page, LONG_AGO) == ["0", "0", "0", "0"]
    looks = 1
    while "so far" in page:
        page, looks = look(site, days=90), looks + 1
        assert looks < 20
    assert day_row(page, LONG_AGO) == ["0", "1", "0", "0"]
    assert looks > 2


def test_a_day_that_is_over_is_remembered_for_an_hour(
    site: Any, make_row: Callable[..., Any], make_decision: Callable[..., Any]
) -> None:
    site.sign_in("soc")
    assert day_row(look(site), YESTERDAY) == ["0", "0", "0", "1"]
    row = make_row("bot", level=4)
    late = make_decision(row, 9, decided_ms=NOW_MS - DAY_MS)
    site.know(row, decisions=(late, make_decision(row, 10, decided_ms=NOW_MS)))
    page = look(site)
    assert day_row(page, YESTERDAY) == ["0", "0", "0", "1"]
    assert day_row(page, TODAY) == ["1", "1", "1", "0"]
    site.clock.now += 3_700
    site.sign_in("soc")
    assert day_row(look(site), YESTERDAY) == ["0", "0", "1", "1"]


def test_many_readers_do_not_push_out_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "MAX_LOOK_S", -1.0)
    monkeypatch.setattr(trends, "MAX_REMEMBERED", 60)
    decisions = SimpleNamespace(
        last_before=lambda end_ms, _: end_ms - 1, count_changes=lambda *_: [CountedChanges(1, 3, "why", 1)]
    )
    runtime = SimpleNamespace(store=SimpleNamespace(decisions=decisions), monotonic=lambda: 0.0)
    counting = trends.DecisionTrends(cast(Any, runtime), cast(Any, None))
    readers = [(f"t{number}",) for number in range(4)]
    for _ in range(200):
        looks = [counting._over(tenants, NOW_MS, 7) for tenants in readers]
        if not any(look.counted_from_ms for look in looks):
            break
    assert [look.counted_from_ms for look in looks] == [0] * 4
    today = NOW_MS % DAY_MS // trends.SLICE_MS + 1
    assert [sum(day.rises.values()) for day in looks[0].days] == [12] * 6 + [today]
    assert looks[0].reasons == [("why", 72 + today)]
