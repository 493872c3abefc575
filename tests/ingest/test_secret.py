"""A secret that somebody sends is compared in one way, wherever it comes."""

from __future__ import annotations

import ast
import hmac
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.settings import Secret

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("given", [b"", b"hunter", b"hunter2 ", b"hunter20", b"Hunter2", "hünter2".encode()])
def test_only_the_secret_itself_matches(given: bytes) -> None:
    assert Secret("hunter2").matches(b"hunter2")
    assert not Secret("hunter2").matches(given)


def test_what_is_compared_is_of_one_length(monkeypatch: Any) -> None:
    """`compare_digest` takes the shorter way where lengths differ, which tells how long the secret is."""
    lengths: set[int] = set()

    def compare(one: bytes, other: bytes) -> bool:
        lengths.update((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (b"", b"x" * 9000, b"hunter2"):
        Secret("hunter2").matches(given)

    assert len(lengths) == 1


def test_no_program_text_compares_a_revealed_secret_itself() -> None:
    """`==` stops at the first difference; whoever needs a comparison takes `Secret.matches`."""
    wrong = []
    for part in ("api", "ingest", "scoring", "client"):
        for file in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Compare)
                    and isinstance(node.ops[0], ast.Eq | ast.NotEq)
                    and "reveal()" in ast.unparse(node)
                ):
                    wrong.append(f"{file}:{node.lineno}")
    assert wrong == []
