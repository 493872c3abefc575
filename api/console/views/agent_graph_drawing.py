"""Drawing of the agents around an agent: made here, so it prints and needs no script.

Twice: layers from left to right for wide pages, from top to bottom with two agents a row for narrow ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import AgentEdge, RiskLevel
from trustwatch.scoring.store.blast_radius import AgentGraph, GraphAgent, layers_of

from ..rendering import LEVEL_SYMBOLS, agent_url, format_share, tie_search_url

MAX_DRAWN_AGENTS: Final = 40
"""Agents in the drawing, the nearest and riskiest; the table beside it has all."""
RISK_STEPS: Final = (0.1, 0.3, 0.6)
"""Risks from which on an edge is drawn thicker."""
EDGE_WORDS: Final = {"delegated": "delegated to", "called": "called"}

_HEIGHT: Final = 40
_MARGIN: Final = 6
_ROOM_ABOVE: Final = 18
"""For lines that lead back, over the boxes."""
_LABEL_LENGTH: Final = {"wide": 24, "narrow": 20}


class AskedRange(NamedTuple):
    """Range of time of a graph as its address says it; what it leads to has the same."""

    since: str = ""
    until: str = ""


WHOLE_TIME: Final = AskedRange()


class ShownEdge(NamedTuple):
    """An edge in the table, with both agents; *url* leads to the events in which both took part."""

    source: GraphAgent
    target: GraphAgent
    edge: AgentEdge
    url: str


class _Place(NamedTuple):
    """Upper left corner of a box, and its row or column of boxes."""

    x: int
    y: int
    rank: int


class _Layout(NamedTuple):
    name: str
    places: dict[str, _Place]
    box_width: int
    width: int
    height: int


def shown_edges(graph: AgentGraph, asked: AskedRange = WHOLE_TIME) -> list[ShownEdge]:
    """Edges of the table: those of the nearest agents first, and of these the riskiest."""
    agents = {agent.name.agent_id: agent for agent in graph.agents}
    rows = [ShownEdge(agents[edge.source], agents[edge.target], edge, _events_url(edge, asked)) for edge in graph.edges]
    return sorted(rows, key=lambda row: (max(abs(row.source.layer), abs(row.target.layer)), -row.edge.risk))


def _events_url(edge: AgentEdge, asked: AskedRange) -> str:
    return tie_search_url(edge.tenant, edge.source, edge.target, asked.since, asked.until)


def draw_agent_graph(graph: AgentGraph, asked: AskedRange = WHOLE_TIME) -> Markup:
    """Two SVGs of the agent and those around it, of which the style sheet shows one; "" = there is nobody."""
    if len(graph.agents) < 2:
        return Markup("")
    nearest = sorted(graph.agents, key=lambda one: (abs(one.layer), -(one.level or 0), one.name.agent_id))
    drawn = nearest[: MAX_DRAWN_AGENTS + 1]
    names = {agent.name.agent_id for agent in drawn}
    edges = [edge for edge in graph.edges if {edge.source, edge.target} <= names and edge.source != edge.target]
    columns = _ordered_layers(drawn, edges)
    return Markup("").join(_draw(layout, drawn, edges, asked) for layout in (_wide(columns), _narrow(columns)))


def shorten_agent_id(agent_id: str, most: int = _LABEL_LENGTH["wide"]) -> str:
    """An id that fits into a box. Its end stays whole: ids of one fleet begin alike.

    >>> shorten_agent_id("https://agents.acme.example/research-agent/0")
    'https:…/research-agent/0'
    """
    return agent_id if len(agent_id) <= most else f"{agent_id[:6]}…{agent_id[7 - most :]}"


def _ordered_layers(agents: Sequence[GraphAgent], edges: Sequence[AgentEdge]) -> list[list[GraphAgent]]:
    """Agents by layer; each near those of the layer before that it is tied to, so that few edges cross."""
    layers = layers_of(agents)
    tied: dict[str, list[str]] = {}
    for edge in edges:
        tied.setdefault(edge.source, []).append(edge.target)
        tied.setdefault(edge.target, []).append(edge.source)
    for layer in sorted(layers, key=abs):
        inner = layers.get(layer - (1 if layer > 0 else -1), []) if layer else []
        heights = {agent.name.agent_id: place / max(len(inner), 1) for place, agent in enumerate(inner)}

        def height(agent: GraphAgent, heights: dict[str, float] = heights) -> float:
            near = [heights[other] for other in tied.get(agent.name.agent_id, ()) if other in heights]
            return sum(near) / len(near) if near else 0.5

        layers[layer].sort(key=height)
    return [layers[layer] for layer in sorted(layers)]


def _wide(columns: Sequence[Sequence[GraphAgent]]) -> _Layout:
    """A column for each layer."""
    box, gap_x, gap_y = 190, 80, 14
    tallest = max(len(column) for column in columns)
    height = tallest * (_HEIGHT + gap_y) - gap_y + 2 * _MARGIN + _ROOM_ABOVE
    places = {}
    for rank, column in enumerate(columns):
        top = (height + _ROOM_ABOVE - len(column) * (_HEIGHT + gap_y) + gap_y) // 2
        for row, agent in enumerate(column):
            x, y = _MARGIN + rank * (box + gap_x), top + row * (_HEIGHT + gap_y)
            places[agent.name.agent_id] = _Place(x, y, rank)
    width = 2 * _MARGIN + len(columns) * (box + gap_x) - gap_x + 24  # edges within a column bend to its right
    return _Layout("wide", places, box, width, height)


def _narrow(columns: Sequence[Sequence[GraphAgent]]) -> _Layout:
    """Rows of two, those of a layer close to each other."""
    box, gap_x, gap_y, gap_layer = 158, 12, 10, 44
    width = 2 * _MARGIN + 2 * box + gap_x + 18
    places, y, rank = {}, _MARGIN, 0
    for column in columns:
        for at in range(0, len(column), 2):
            pair = column[at : at + 2]
            left = (width - 18 - len(pair) * (box + gap_x) + gap_x) // 2
            for place, agent in enumerate(pair):
                places[agent.name.agent_id] = _Place(left + place * (box + gap_x), y, rank)
            y, rank = y + _HEIGHT + gap_y, rank + 1
        y += gap_layer - gap_y
    return _Layout("narrow", places, box, width, y - gap_layer + _MARGIN)


def _draw(layout: _Layout, agents: Sequence[GraphAgent], edges: Sequence[AgentEdge], asked: AskedRange) -> Markup:
    arrow = Markup(
        '<defs><marker id="arrow-{}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    ).format(layout.name)
    lines = Markup("").join(_draw_edge(layout, edge, asked) for edge in edges)
    boxes = Markup("").join(_draw_agent(layout, agent, asked) for agent in agents)
    title = f"The nearest {len(agents) - 1} agents around this one; the table below has all of them in words"
    return Markup(
        '<svg class="graph {}" width="{}" height="{}" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}{}</svg>'
    ).format(layout.name, layout.width, layout.height, layout.width, layout.height, title, arrow, lines, boxes)


def _draw_edge(layout: _Layout, edge: AgentEdge, asked: AskedRange) -> Markup:
    """A line that leads to its events. No stop of the Tab key: there may be hundreds, and the table has the links."""
    start, end = layout.places[edge.source], layout.places[edge.target]
    words = (
        f"{edge.source} {EDGE_WORDS.get(edge.kind, edge.kind)} {edge.target}; risk {format_share(edge.risk)}; "
        f"first {format_rfc3339(edge.first_ms)[:16]}, last {format_rfc3339(edge.last_ms)[:16]}"
    )
    thickness = 1 + sum(edge.risk >= step for step in RISK_STEPS)
    curve = _curve(layout, start, end)
    return Markup(
        '<a href="{}" tabindex="-1"><title>{}</title><path class="hit" d="{}"/>'
        '<path class="edge {} risk-{}" d="{}" marker-end="url(#arrow-{})"/></a>'
    ).format(_events_url(edge, asked), words, curve, edge.kind, thickness, curve, layout.name)


def _curve(layout: _Layout, start: _Place, end: _Place) -> str:
    """From a box to one further on by its facing sides; to one before or beside it around others."""
    box, middle = layout.box_width, _HEIGHT // 2
    if start.rank < end.rank and layout.name == "wide":
        return _across(start.x + box, start.y + middle, end.x, end.y + middle)
    if start.rank < end.rank:
        return _down(start.x + box // 2, start.y + _HEIGHT, end.x + box // 2, end.y)
    if start.rank == end.rank and layout.name == "narrow":
        x1, x2 = (start.x + box, end.x) if start.x < end.x else (start.x, end.x + box)
        return f"M{x1} {start.y + middle}L{x2} {end.y + middle}"
    if start.rank > end.rank and layout.name == "wide":
        x1, x2, above = start.x + box // 2, end.x + box // 2, min(start.y, end.y) - _ROOM_ABOVE - 6
        return f"M{x1} {start.y}C{x1} {above} {x2} {above} {x2} {end.y}"
    x1, y1, x2, y2 = start.x + box, start.y + middle, end.x + box, end.y + middle
    bend = max(x1, x2) + 22
    return f"M{x1} {y1}C{bend} {y1} {bend} {y2} {x2} {y2}"


def _across(x1: int, y1: int, x2: int, y2: int) -> str:
    half = (x1 + x2) // 2
    return f"M{x1} {y1}C{half} {y1} {half} {y2} {x2} {y2}"


def _down(x1: int, y1: int, x2: int, y2: int) -> str:
    half = (y1 + y2) // 2
    return f"M{x1} {y1}C{x1} {half} {x2} {half} {x2} {y2}"


def _draw_agent(layout: _Layout, agent: GraphAgent, asked: AskedRange) -> Markup:
    """A box that leads to the graph around its agent, of the same time."""
    place, agent_id = layout.places[agent.name.agent_id], agent.name.agent_id
    word = "never seen" if agent.level is None else RiskLevel(agent.level).label
    body = Markup(
        '<g class="node node-{}{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="4"/>'
        '<text x="{}" y="{}">{}</text><text class="small" x="{}" y="{}">{} {}</text></g>'
    ).format(
        word.split()[0],
        "" if agent.layer else " here",
        agent_id,
        *(place.x, place.y, layout.box_width, _HEIGHT),
        *(place.x + 8, place.y + 17, shorten_agent_id(agent_id, _LABEL_LENGTH[layout.name])),
        *(place.x + 8, place.y + 32, LEVEL_SYMBOLS.get(word, "–"), word),
    )
    url = agent_url(agent.name.tenant, agent.name.issuer, agent_id)
    times = urlencode({name: value for name, value in asked._asdict().items() if value})
    return (
        Markup('<a href="{}{}#reach">{}</a>').format(url, f"&{times}" if times else "", body) if agent.layer else body
    )
