"""Draw `docs/images/architecture.svg`: `python -m scripts.draw_architecture`. A test holds the picture to this."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

DRAWING = Path(__file__).resolve().parents[1] / "docs" / "images" / "architecture.svg"
WIDTH, HEIGHT = 1000, 430
BOX_WIDTH, BOX_HEIGHT = 230, 80
INK, PAPER, FILL = "#1f2937", "#ffffff", "#eef2ff"
"""The drawing brings its own paper: it is read on light and on dark pages."""


class Box(NamedTuple):
    """A box: the place of its upper left corner, its name and what it does."""

    x: int
    y: int
    name: str
    does: str


class Arrow(NamedTuple):
    """An arrow along *points*; its label begins at *x*, *y*."""

    points: tuple[tuple[int, int], ...]
    label: str
    x: int
    y: int


BOXES = (
    Box(30, 30, "Your systems", "agents, gateways, issuers"),
    Box(385, 30, "Event intake", "checks, stores"),
    Box(730, 30, "Pipeline", "features, scores, decisions"),
    Box(730, 180, "Risk of each agent", "in memory"),
    Box(385, 180, "Policy", "verdicts for hooks, gateways"),
    Box(385, 320, "Alerts, actuators", "tell people, act on tokens"),
)
ARROWS = (
    Arrow(((260, 70), (385, 70)), "events", 295, 60),
    Arrow(((615, 70), (730, 70)), "one log", 642, 60),
    Arrow(((830, 110), (830, 180)), "risk", 842, 150),
    Arrow(((730, 220), (615, 220)), "levels", 648, 210),
    Arrow(((385, 220), (200, 220), (200, 110)), "answers", 250, 210),
    Arrow(((960, 70), (980, 70), (980, 360), (615, 360)), "decisions", 750, 350),
    Arrow(((385, 360), (90, 360), (90, 110)), "shorten, revoke, restore", 150, 350),
)


def drawing() -> str:
    """The picture as SVG."""
    root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    ElementTree.SubElement(root, "title").text = "The parts of Trustwatch, and what flows between them"
    _marker(root)
    ElementTree.SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill=PAPER)
    for arrow in ARROWS:
        points = " ".join(f"{x},{y}" for x, y in arrow.points)
        line = {"points": points, "fill": "none", "stroke": INK, "stroke-width": "2", "marker-end": "url(#head)"}
        ElementTree.SubElement(root, "polyline", line)
        _text(root, arrow.label, arrow.x, arrow.y, 15)
    for box in BOXES:
        place = {"x": str(box.x), "y": str(box.y), "width": str(BOX_WIDTH), "height": str(BOX_HEIGHT), "rx": "8"}
        ElementTree.SubElement(root, "rect", {**place, "fill": FILL, "stroke": INK, "stroke-width": "2"})
        _text(root, box.name, box.x + BOX_WIDTH // 2, box.y + 34, 18, anchor="middle", weight="bold")
        _text(root, box.does, box.x + BOX_WIDTH // 2, box.y + 60, 15, anchor="middle")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _marker(root: ElementTree.Element) -> None:
    """The head of every arrow."""
    size = {"viewBox": "0 0 10 10", "refX": "10", "refY": "5", "markerWidth": "7", "markerHeight": "7"}
    marker = ElementTree.SubElement(root, "marker", {"id": "head", "orient": "auto", **size})
    ElementTree.SubElement(marker, "path", d="M0,0 L10,5 L0,10 z", fill=INK)


def _text(
    root: ElementTree.Element, text: str, x: int, y: int, size: int, *, anchor: str = "start", weight: str = "normal"
) -> None:
    look = {"font-family": "sans-serif", "font-size": str(size), "font-weight": weight, "text-anchor": anchor}
    ElementTree.SubElement(root, "text", {"x": str(x), "y": str(y), "fill": INK, **look}).text = text


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
