"""The product keeps the budgets of `reference/code.md`: lines of rooms, modules, settings, metrics, words."""

from __future__ import annotations

import re
import subprocess

import pytest

from scripts.measure_code import ROOMS, lines_of_rooms, totals

from ..support.checkout import ROOT

ROW = re.compile(r"^\| ([^|]+) \| ([\d,]+) \|$", re.MULTILINE)
PAGE = (ROOT / "reference" / "code.md").read_text(encoding="utf-8")
BUDGETS = {name: int(most.replace(",", "")) for name, most in ROW.findall(PAGE)}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_its_budget(room: str) -> None:
    """To raise one, state in the table's row what it paid for, or write a decision page."""
    assert lines_of_rooms()[room] <= BUDGETS[room]


@pytest.mark.parametrize("count", totals())
def test_a_total_keeps_its_budget(count: str) -> None:
    assert totals()[count] <= BUDGETS[count]


def test_every_row_is_measured() -> None:
    assert set(BUDGETS) == {*ROOMS, *totals()}


def test_every_module_is_in_one_room() -> None:
    """Lines of rooms add up to the lines of the product, and rooms to what they are allowed together."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    folders = tuple(
        f"{name}/" for name in ("trustwatch", "ingest", "models", "scoring", "api", "client", "lab", "simulator")
    )
    product = [ROOT / path for path in listed if path.startswith(folders) and (ROOT / path).is_file()]

    assert sum(lines_of_rooms().values()) == sum(len(path.read_text("utf-8").splitlines()) for path in product)
    assert sum(BUDGETS[room] for room in ROOMS) <= BUDGETS["lines of the product"]
