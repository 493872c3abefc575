"""A value is declared once: pairs of value classes that share most of their members are listed with a reason."""

from __future__ import annotations

import ast
from itertools import combinations
from typing import NamedTuple

from ..support.checkout import ROOT

FOLDERS = ("ingest", "models", "scoring", "api", "client", "lab", "simulator")
LEAST_MEMBERS = 5
SHARE = 0.6
"""Of the members of the larger class."""

REASONS = {
    ("AuthenticatedCaller", "TokenClaims"): "what a token claims, and whom the settings take it for",
    ("BacktestAlert", "AlertReport"): "the second is a format of files",
    ("BacktestAlert", "SimulatedRevocation"): "kinds of rows of one report",
    ("BacktestCounts", "BacktestSide"): "counters, and the format of files that they end in",
    ("CaseSearch", "CaseFilters"): "a search is of one caller, filters are of the tenants that it may see",
    ("CaseSearch", "DecisionFilters"): "what two lists are narrowed by",
    ("Dispatcher", "_TargetWorker"): "a worker for one target is given what its dispatcher has",
    ("ErasureSubject", "EraseCommand"): "the second is a format of the log",
    ("EventLabel", "SimulatedLabel"): "the simulator writes what backtests read, by its own name",
    ("FeedbackDraft", "FeedbackIn"): "a body of the API, and what is left when it was checked",
    ("LevelChange", "_DecisionRecordData"): "the second is a format of topics",
    ("OutboxRow", "Delivery"): "what is to be sent, and what became of it",
    ("RefusedInput", "DeadLetter"): "a draft, and the row that it becomes",
    ("RevocationReport", "AlertReport"): "kinds of rows of one report",
    ("RiskRecord", "AgentSummary"): "the first is a format of topics",
    ("SimulatedLabel", "GroundTruth"): "the second is without what belongs to one event",
    ("TokenPolicy", "LevelTokenPolicy"): "an answer takes members that it does not know, a setting refuses them",
}
"""Pairs of classes that share most of their members, and why they are two."""


class ValueClass(NamedTuple):
    name: str
    members: frozenset[str]


def value_classes(source: str) -> list[ValueClass]:
    return [
        ValueClass(
            node.name,
            frozenset(
                line.target.id.strip("_")
                for line in node.body
                if isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and "ClassVar" not in ast.unparse(line.annotation)
            ),
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    ]


def similar_pairs(classes: list[ValueClass]) -> set[frozenset[str]]:
    large = [one for one in classes if len(one.members) >= LEAST_MEMBERS]
    return {
        frozenset((one.name, other.name))
        for one, other in combinations(large, 2)
        if len(shared := one.members & other.members) >= LEAST_MEMBERS
        and len(shared) >= SHARE * max(len(one.members), len(other.members))
    }


def test_value_classes_that_share_most_members_have_a_reason() -> None:
    """A new pair is declared once, or gets a reason; one that went leaves the list."""
    classes = [
        found
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for found in value_classes(path.read_text(encoding="utf-8"))
    ]

    found = {tuple(sorted(pair)) for pair in similar_pairs(classes)}

    assert found == {tuple(sorted(pair)) for pair in REASONS}
