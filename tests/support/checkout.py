"""The checkout: what tests read of it, and where programs of `tests.support.processes` are started."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Folder of `tests`, `scripts`, `benchmarks`, `docs`: of the checkout, or of the copy that the wheel is tested in."""
DOCS = ROOT / "docs"


def process_command(name: str, *arguments: object) -> list[str]:
    """Command that runs `tests.support.processes.NAME`; for a process whose working directory is `ROOT`."""
    return [sys.executable, "-m", f"tests.support.processes.{name}", *map(str, arguments)]
