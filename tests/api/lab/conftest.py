"""The notebooks' example, made once for all tests that read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trustwatch.api.lab import Lab, open_lab
from trustwatch.api.lab.example import prepare_example


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the example; tests that write into it take a copy."""
    return prepare_example(tmp_path_factory.mktemp("lab") / "example").parent


@pytest.fixture(scope="session")
def lab(example: Path) -> Iterator[Lab]:
    """The example, open."""
    with open_lab(example) as opened:
        yield opened


@pytest.fixture(scope="session")
def day(lab: Lab) -> dict[str, Any]:
    """Its last day, as arguments."""
    return lab.last(24)
