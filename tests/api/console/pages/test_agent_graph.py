"""The graph on the page of an agent: agents that called it and agents that it called, in a time range."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.scoring.records.agents import AgentEdge
from trustwatch.scoring.records.commits import Commit, Position

from ....support.console_records import AS, NOW_MS

DAY_MS = 86_400_000
BOT = {"tenant": "acme", "issuer": AS, "id": "bot"}


@pytest.fixture
def site(new_site: Callable[..., Any], make_row: Callable[..., Any]) -> Any:
    """An agent that one delegated to today, and that reached one today and one ten days ago."""
    site = new_site()
    site.know(make_row("bot", level=4), make_row("boss", level=2))
    ties = (("delegated", "boss", "bot", 0), ("called", "bot", "tool", 0), ("called", "bot", "old-tool", 10))
    edges = [
        AgentEdge("acme", AS, kind, source, target, NOW_MS - days * DAY_MS, NOW_MS - days * DAY_MS, 0.5, NOW_MS)
        for kind, source, target, days in ties
    ]
    edges.append(AgentEdge("acme", AS, "acts_for", "bot", "ann", NOW_MS, NOW_MS, 0.5, NOW_MS))
    before = site.position
    after = msgspec.structs.replace(before, offset=before.offset + 1)
    site.store.commit(Commit(before, after, [], [], [], [], edges=edges))
    site.position = Position(0, before.epoch, after.offset)
    site.sign_in("soc")
    return site


def test_the_page_shows_both_directions(site: Any) -> None:
    page = site.browser.get("/console/agent", params=BOT).text
    graph = page.partition('id="graph"')[2].partition("On behalf of")[0]
    rows = [re.sub(r"<[^>]*>|\s+", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", graph)[1:]]
    assert [" ".join(row[:8]) for row in sorted(rows)] == [
        "boss ▲ medium delegated to this agent ■",
        "this agent ■ critical called tool never seen",
    ]
    assert all("0.50" in row for row in rows)
    assert "−1" in graph and "+1" in graph and "2 agents" in graph and "old-tool" not in graph
    assert 'id=boss&amp;since=7d#reach"' in graph
    assert '<span class="chip">ann</span>' in page


def test_the_graph_of_an_agent_of_others_is_not_there(site: Any, make_row: Callable[..., Any]) -> None:
    site.know(make_row("theirs", "globex"))
    theirs = BOT | {"tenant": "globex", "id": "theirs"}
    assert site.browser.get("/console/agent/graph", params=theirs).status_code == 403
