"""What the code must not have: imports in a circle, two classes of one name, lines that the formatter may not touch."""

from __future__ import annotations

import subprocess
import sys

from ..support.checkout import ROOT

ONE_MEANING = {"Indicator"}
"""The client imports nothing of the service, so it has a class of its own for what an answer shows."""


def test_the_house_is_in_order() -> None:
    """As the script says: in a process of its own, for here the roots are no package that can be looked through."""
    command = [sys.executable, "-m", "scripts.measure_code"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    figures = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert int(figures["modules"]) > 300
    assert figures["import cycles"] == "0", done.stderr
    assert figures["`# fmt: skip`"] == "0"
    assert set(done.stderr.split()) <= ONE_MEANING
