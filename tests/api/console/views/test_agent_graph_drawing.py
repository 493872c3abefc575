"""The drawing of the agents around an agent: boxes, lines, order, and what is too much for it."""

from __future__ import annotations

import re
from typing import Any

from trustwatch.api.console.views.agent_graph_drawing import MAX_DRAWN_AGENTS, AskedRange, draw_agent_graph, shown_edges
from trustwatch.scoring.records.agents import AgentEdge, AgentName, RiskLevel
from trustwatch.scoring.store.blast_radius import AgentGraph, GraphAgent

NOW_MS = 1_764_000_000_000


def agent(agent_id: str, layer: int, level: RiskLevel | None = RiskLevel.LOW) -> GraphAgent:
    """An agent of the graph."""
    return GraphAgent(AgentName(1, "t", "i", agent_id), layer, level)


def tie(source: str, target: str, kind: Any = "delegated", risk: float = 0.0) -> AgentEdge:
    """An edge."""
    return AgentEdge("t", "i", kind, source, target, NOW_MS, NOW_MS, risk, NOW_MS)


def drawn(graph: AgentGraph) -> tuple[str, str]:
    """The wide and the narrow drawing."""
    wide, narrow = str(draw_agent_graph(graph)).split("</svg>")[:2]
    assert 'class="graph wide"' in wide and 'class="graph narrow"' in narrow
    return wide, narrow


def boxes(drawing: str) -> dict[str, tuple[int, int, int]]:
    """Place and width of the box of each agent."""
    found = re.findall(r'<g class="node[^>]*><title>([^<]*)</title><rect x="(\d+)" y="(\d+)" width="(\d+)"', drawing)
    return {agent_id: (int(x), int(y), int(width)) for agent_id, x, y, width in found}


SMALL = AgentGraph(
    [agent("boss", -1), agent("<bot>", 0, RiskLevel.CRITICAL), agent("a&b", 1), agent("c", 1, None), agent("d", 2)],
    [tie("boss", "<bot>"), tie("<bot>", "a&b", "called", 0.7), tie("<bot>", "c"), tie("a&b", "d"), tie("d", "<bot>")],
    True,
)


def test_names_are_text_and_lead_to_their_pages() -> None:
    """Each agent once in each drawing, itself without a link; a line with its words for each tie."""
    for drawing in drawn(SMALL):
        assert drawing.count("<rect") == 5 and drawing.count('<path class="edge') == 5
        assert "<bot>" not in drawing and "&lt;bot&gt;" in drawing and "a&amp;b" in drawing
        assert 'href="/console/agent?tenant=t&amp;issuer=i&amp;id=d#reach"' in drawing
        assert drawing.count("<a ") == 4 + 5
        assert "risk 0.70; first 2025-11-24T16:00, last 2025-11-24T16:00" in drawing
        assert 'class="edge called risk-4"' in drawing and 'class="edge delegated risk-1"' in drawing


def test_lines_lead_to_the_events_of_both_and_agents_to_their_graphs() -> None:
    """Of the same time; in the table the same links."""
    asked = AskedRange("30d", "2026-11-28")
    url = "/console/search?q=party%3A%22boss%22+party%3A%22%3Cbot%3E%22+tenant%3A%22t%22+since%3A%2230d%22"
    for drawing in str(draw_agent_graph(SMALL, asked)).split("</svg>")[:2]:
        assert f'<a href="{url}+until%3A%222026-11-28%22" tabindex="-1"><title>boss delegated to' in drawing
        assert 'id=d&amp;since=30d&amp;until=2026-11-28#reach"' in drawing
    assert {row.url.startswith(url) for row in shown_edges(SMALL, asked) if row.source.layer < 0} == {True}


def test_layers_stand_beside_or_below_each_other_and_no_boxes_overlap() -> None:
    """From left to right where there is room, else from top to bottom; all within the drawing."""
    many = AgentGraph(
        [agent("bot", 0), *(agent(f"up{n}", -1) for n in range(3)), *(agent(f"down{n}", 1) for n in range(7))],
        [*(tie(f"up{n}", "bot") for n in range(3)), *(tie("bot", f"down{n}") for n in range(7))],
        True,
    )
    wide, narrow = drawn(many)
    assert boxes(wide)["up1"][0] < boxes(wide)["bot"][0] < boxes(wide)["down1"][0]
    assert boxes(narrow)["up1"][1] < boxes(narrow)["bot"][1] < boxes(narrow)["down1"][1]
    for drawing, most in ((wide, 2_000), (narrow, 372)):
        width, height = (
            int(found) for found in re.findall(r'svg class="graph \w+" width="(\d+)" height="(\d+)"', drawing)[0]
        )
        assert width <= most
        places = list(boxes(drawing).values())
        assert all(x >= 0 and y >= 0 and x + box <= width and y + 40 <= height for x, y, box in places)
        assert not any(
            abs(y - other_y) < 40 and abs(x - other_x) < box
            for at, (x, y, box) in enumerate(places)
            for other_x, other_y, _ in places[:at]
        )


def test_agents_stand_near_those_that_they_are_tied_to() -> None:
    """So lines of two families do not cross."""
    wide, _ = drawn(
        AgentGraph(
            [agent("bot", 0), agent("a", 1), agent("b", 1), agent("z-of-a", 2), agent("c-of-b", 2)],
            [tie("bot", "a"), tie("bot", "b"), tie("a", "z-of-a"), tie("b", "c-of-b")],
            True,
        )
    )
    at = {agent_id: y for agent_id, (_, y, _) in boxes(wide).items()}
    assert (at["a"] < at["b"]) == (at["z-of-a"] < at["c-of-b"])


def test_what_is_too_much_for_a_drawing_is_left_to_the_table() -> None:
    """The nearest and riskiest are drawn; nobody around it is no drawing."""
    count = MAX_DRAWN_AGENTS + 5
    far = [agent(f"a{n}", 1) for n in range(count - 1)] + [agent("worst", 1, RiskLevel.CRITICAL)]
    graph = AgentGraph([agent("bot", 0), *far], [tie("bot", one.name.agent_id) for one in far], True)
    for drawing in drawn(graph):
        assert len(boxes(drawing)) == MAX_DRAWN_AGENTS + 1 and "worst" in boxes(drawing)
    assert len(shown_edges(graph)) == count
    assert draw_agent_graph(AgentGraph([agent("bot", 0)], [], True)) == ""


def test_the_table_has_the_nearest_and_riskiest_ties_first() -> None:
    """With both agents of each."""
    rows = [(row.source.name.agent_id, row.target.name.agent_id) for row in shown_edges(SMALL)]
    assert rows[0] == ("<bot>", "a&b")
    assert set(rows[-2:]) == {("a&b", "d"), ("d", "<bot>")}
