"""The preview of feedback: the effect on the marked decision, and remaining anomalies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from trustwatch.api.console.pages.feedback_page import preview_values
from trustwatch.api.console.rendering import PageRenderer, StaticAssets
from trustwatch.scoring.records.feedback import FeedbackPreview

from ....support.console_records import NOW_MS, REASON, decision_of, row_of


def alert(level: str, with_rule: str, **told: Any) -> dict[str, Any]:
    given = {
        "agent_id": "bot",
        "tenant": "acme",
        "issuer": "i",
        "time": "2026-01-13T18:04:08.000Z",
        "event_id": "e",
        "level": level,
        "level_with_rule": with_rule,
        "reasons": ["why"],
        "marked": False,
        "same_rise": False,
    }
    return {**given, **told}


def page(removed: list[dict[str, Any]], odd: list[dict[str, Any]] | None = None) -> str:
    """The finished preview as HTML, without its layout."""
    window = {"from": "2026-01-13T23:06:00.000Z", "to": "2026-01-13T23:07:00.000Z", "events": 169, "source": "log"}
    found = {
        "window": window,
        "events_matched": 160,
        "agents_affected": 1,
        "alerts_before": 3,
        "alerts_after": 2,
        "alerts_removed": removed,
        "alerts_removed_count": len(removed),
        "detections_lost": [],
        "detections_lost_count": 0,
        "still_odd": odd or [],
        "unseen": "",
    }
    row = FeedbackPreview("p", "d1", "acme", "x", "draft", "done", 1.0, 0, 0, "", msgspec.json.encode(found))
    asked = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""})
    renderer = PageRenderer(StaticAssets(), (), lambda: NOW_MS)
    made = renderer.page(asked, "feedback_preview.html", None, **preview_values(row))
    return " ".join(bytes(made.body).decode().split())


def test_the_preview_begins_with_the_decision_that_was_marked() -> None:
    gone, lower = page([alert("high", "low", marked=True)]), page([alert("critical", "high", marked=True)])
    both = page([alert("high", "low"), alert("critical", "high")])
    nothing = page([])

    assert 'would have been <span class="level level-low"' in gone and "still an alert" not in gone
    assert "</span> alert removed</li>" in gone and "alerts removed" not in gone
    assert "still an alert" in lower and "</span> alert lowered, none removed</li>" in lower
    assert "</span> alerts removed or lowered; 1 only lowered</li>" in both
    assert "changes nothing about the decision that you marked" in nothing and "</span> alerts removed" in nothing


@pytest.mark.parametrize(("signals", "said"), [([], False), (["use_after_revocation"], True)])
def test_the_form_ticks_what_led_there_and_warns_of_hard_signals(
    new_site: Callable[..., Any], signals: list[str], said: bool
) -> None:
    """A climb is marked as a whole; a level that a hard signal made is not promised to go away."""
    site, row = new_site(), row_of("bot", level=4)
    before = msgspec.structs.replace(REASON, feature="hour_surprise", text="at an hour of its own")
    first = decision_of(row_of("bot", level=3), 1, reasons=(before,))
    site.know(row, decisions=(first, decision_of(row, 2, before=3, evidence={"signals": signals})))
    site.sign_in("soc")

    form = site.browser.get("/console/decisions/d-2/feedback").text

    assert 'name="feature.hour_surprise" checked' in form and "at an hour of its own" in form
    assert ("A hard signal is part of it" in form) is said
