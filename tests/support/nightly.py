"""Sizes of tests that grow for the nightly run: `TRUSTWATCH_NIGHTLY=1`, set by `.ci/nightly`."""

from __future__ import annotations

import os
from typing import Final

import pytest

VARIABLE: Final = "TRUSTWATCH_NIGHTLY"
NOT_BY_DAY: Final = f"NOT RUN BY DAY: a minute and more; {VARIABLE}=1 runs it"


def is_nightly() -> bool:
    """True for the nightly run, which alone has time for some tests."""
    return os.environ.get(VARIABLE) == "1"


nightly = pytest.mark.skipif(not is_nightly(), reason=NOT_BY_DAY)
"""Mark of tests that only the nightly run has time for: by day others show it in small, or in parts."""


def size(*, each_push: int, nightly: int) -> int:
    """Number of kills, rounds or the like: enough of them on each push, many each night."""
    return nightly if is_nightly() else each_push
