"""Every process of a deployment knows agents and events under its identity key; default arguments hide no other."""

from __future__ import annotations

import ast

from tests.support.checkout import ROOT

TAKERS = {
    "ColumnEncoder": 2,
    "Engine": 4,
    "Admission": 2,
    "RiskTopicReader": 1,
    "SourcePartition": 3,
    "ShadowRun": 4,
    "open_group_source": None,
}
"""What takes identities, and the place of the argument; None = by its name alone."""

WITHOUT_A_DEPLOYMENT = {
    "api/models/training_commands.py": "`train` learns from files",
    "api/models/training_scheduler.py": "a model knows agents under its salt",
}
"""Callers to whom the salt of the model is the key, and why."""


def forgetful(source: str) -> list[int]:
    """Lines of *source* that make something without saying under which identities."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKERS:
            place = TAKERS[node.func.id]
            named = any(keyword.arg == "identities" for keyword in node.keywords)
            if not named and (place is None or len(node.args) <= place):
                lines.append(node.lineno)
    return lines


def test_no_process_forgets_them() -> None:
    """In `api` each of these calls names them, but where there is no deployment."""
    found = {
        path.relative_to(ROOT).as_posix(): forgetful(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "api").rglob("*.py"))
    }
    assert {path for path, lines in found.items() if lines} == set(WITHOUT_A_DEPLOYMENT)
