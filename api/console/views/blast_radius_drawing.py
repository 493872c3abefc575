"""Drawing of the agents that an agent reached, a column for each step: made here, so it prints and needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from ....scoring.records.agents import RiskLevel
from ....scoring.store.blast_radius import ReachedAgent
from ..rendering import LEVEL_SYMBOLS, agent_url

MAX_DRAWN_AGENTS = 40
"""Agents in the drawing; the table beside it has all."""

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y, DRAWING_MARGIN = 190, 40, 70, 14, 6
MAX_LABEL_LENGTH = 24


class _NodePosition(NamedTuple):
    x: int
    y: int


def draw_blast_radius(agent_id: str, level: RiskLevel, reached: Sequence[ReachedAgent]) -> Markup:
    """An SVG of the agent and the first agents that it reached, nearest and riskiest first."""
    drawn = list(reached[:MAX_DRAWN_AGENTS])
    columns: dict[int, list[ReachedAgent]] = {}
    for agent in drawn:
        columns.setdefault(agent.depth, []).append(agent)
    rows = max((len(column) for column in columns.values()), default=1)
    height = rows * (NODE_HEIGHT + GAP_Y) + DRAWING_MARGIN
    places = {agent_id: _NodePosition(DRAWING_MARGIN, (height - NODE_HEIGHT) // 2)}
    for at, depth in enumerate(sorted(columns), 1):
        column = columns[depth]
        top = (height - len(column) * (NODE_HEIGHT + GAP_Y) + GAP_Y) // 2
        for number, agent in enumerate(column):
            places[agent.name.agent_id] = _NodePosition(
                DRAWING_MARGIN + at * (NODE_WIDTH + GAP_X), top + number * (NODE_HEIGHT + GAP_Y)
            )
    width = DRAWING_MARGIN * 2 + (len(columns) + 1) * NODE_WIDTH + len(columns) * GAP_X
    edges = Markup("").join(_draw_edge(agent, places) for agent in drawn)
    nodes = [_draw_node(agent_id, level, places[agent_id], "")]
    nodes += [
        _draw_node(agent.name.agent_id, agent.level, places[agent.name.agent_id], agent_url(*_full_name(agent)))
        for agent in drawn
    ]
    title = f"{agent_id} reached {len(reached)} agents; the table below has the same in words"
    return Markup('<svg class="graph" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}</svg>').format(
        width, height, title, edges, Markup("").join(nodes)
    )


def shorten_agent_id(agent_id: str) -> str:
    """An id that fits into a box. Its end stays whole: ids of one fleet begin alike.

    >>> shorten_agent_id("https://agents.acme.example/research-agent/0")
    'https:…/research-agent/0'
    """
    return agent_id if len(agent_id) <= MAX_LABEL_LENGTH else f"{agent_id[:6]}…{agent_id[7 - MAX_LABEL_LENGTH :]}"


def _full_name(agent: ReachedAgent) -> tuple[str, str, str]:
    return agent.name.tenant, agent.name.issuer, agent.name.agent_id


def _draw_edge(agent: ReachedAgent, places: dict[str, _NodePosition]) -> Markup:
    start, end = places.get(agent.via), places[agent.name.agent_id]
    if start is None:
        return Markup("")
    x1, y1, x2, y2 = start.x + NODE_WIDTH, start.y + NODE_HEIGHT // 2, end.x, end.y + NODE_HEIGHT // 2
    middle = (x1 + x2) // 2
    return Markup('<path class="edge {}" d="M{} {}C{} {} {} {} {} {}"/>').format(
        agent.kind, x1, y1, middle, y1, middle, y2, x2 - 2, y2
    )


def _draw_node(agent_id: str, level: RiskLevel | None, position: _NodePosition, url: str) -> Markup:
    word = "never seen" if level is None else level.label
    shown = shorten_agent_id(agent_id)
    body = Markup(
        '<g class="node node-{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="4"/>'
        '<text x="{}" y="{}">{}</text><text class="small" x="{}" y="{}">{} {}</text></g>'
    ).format(
        word.split()[0],
        agent_id,
        position.x,
        position.y,
        NODE_WIDTH,
        NODE_HEIGHT,
        position.x + 8,
        position.y + 17,
        shown,
        position.x + 8,
        position.y + 32,
        LEVEL_SYMBOLS.get(word, "–"),
        word,
    )
    return Markup('<a href="{}">{}</a>').format(url, body) if url else body
