"""Sizes of tests that grow for the nightly run: `TRUSTWATCH_NIGHTLY=1`, set by `.ci/nightly`."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "TRUSTWATCH_NIGHTLY"


def is_nightly() -> bool:
    """True for the nightly run, which alone has time for some tests."""
    return os.environ.get(VARIABLE) == "1"


def size(*, each_push: int, nightly: int) -> int:
    """Number of kills, rounds or the like: enough of them on each push, many each night."""
    return nightly if is_nightly() else each_push
