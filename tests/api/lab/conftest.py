"""The notebooks' example, open; tests that use it have the marker `integration`, since it takes a while to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trustwatch.lab.facade import LabSession
from trustwatch.lab.session import open_session


@pytest.fixture(scope="session")
def lab(example: Path) -> Iterator[LabSession]:
    """The example, open."""
    with open_session(example) as opened:
        yield opened


@pytest.fixture(scope="session")
def day(lab: LabSession) -> dict[str, Any]:
    """Its last day, as arguments."""
    return lab.last_hours(24)
