"""`replay` over real traces gives the recorded scores, levels and reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .golden_traces import DATA, GOLDEN, SETS, figures

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

if not DATA.is_dir():
    pytest.skip(f"no traces at {DATA}; set TRUSTWATCH_SHARED", allow_module_level=True)


@pytest.mark.parametrize("name", SETS)
def test_traces_are_replayed_as_recorded(name: str, tmp_path: Path) -> None:
    """Learning and frozen: counts by level, sums of scores, counts of reasons; then every line of it."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not among the traces")
    assert figures(name, tmp_path) == json.loads(GOLDEN.read_text())[name]
