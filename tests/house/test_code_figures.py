"""What the code must not have: imports in a circle, two classes of one name, lines that the formatter may not touch."""

from __future__ import annotations

import ast
import subprocess
import sys

from scripts.measure_code import classes_of, functions_of, groups_of_cycles

from ..support.checkout import ROOT

ONE_MEANING = {"Indicator"}
"""The client imports nothing of the service, so it has a class of its own for what an answer shows."""


def test_the_house_is_in_order() -> None:
    """As the script says: in a process of its own, for here the roots are no package that can be looked through."""
    command = [sys.executable, "-m", "scripts.measure_code"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    figures = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert int(figures["modules"]) > 500
    assert figures["import cycles"] == "0", done.stderr
    assert figures["`# fmt: skip`"] == "0"
    assert set(done.stderr.split()) <= ONE_MEANING


def test_cycles_are_found() -> None:
    """Two that import each other, and three in a circle; not who is imported by them."""
    imports = {"a": {"b"}, "b": {"a", "f"}, "c": {"d"}, "d": {"e"}, "e": {"c", "a"}, "f": set[str]()}

    assert groups_of_cycles(imports) == [["a", "b"], ["c", "d", "e"]]


def test_lengths_are_those_of_bodies() -> None:
    """Without head, decorators and docstring; a function that has nothing else does not count."""
    tree = ast.parse(
        '@cached\ndef f(\n    a: int,\n) -> int:\n    """Add.\n\n    Twice.\n    """\n    a += 1\n    return a\n\n\n'
        'class K:\n    def g(self) -> None:\n        """Do nothing."""\n\n\nclass _Own:\n    pass\n'
    )

    assert list(functions_of(tree)) == [("f", 2)]
    assert list(classes_of(tree)) == ["K"]
