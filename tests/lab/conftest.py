"""The notebooks' example, open; tests that use it have the marker `integration`, since it takes a while to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trustwatch.lab import LabSession, frames, open_session


@pytest.fixture(scope="session")
def session(example: Path) -> Iterator[LabSession]:
    """The example, open."""
    with open_session(example) as opened:
        yield opened


@pytest.fixture(scope="session")
def day(session: LabSession) -> dict[str, Any]:
    """Its last day, as arguments."""
    return frames.last_hours(session, 24)
