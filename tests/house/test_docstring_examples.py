"""Examples in docstrings of the product hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from ..support.checkout import ROOT

FOLDERS = ("ingest", "models", "scoring", "api", "lab", "simulator", "client/trustwatch_client")


def modules_with_examples() -> list[str]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if ">>>" in path.read_text()]
    return [_module_name(path.relative_to(ROOT)) for path in paths]


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    own = parts[1:] if parts[0] == "client" else ("trustwatch", *parts)
    return ".".join(own[:-1] if own[-1] == "__init__" else own)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
