"""promtool, which checks and tests rules of Prometheus."""

from __future__ import annotations

import shutil
from pathlib import Path

from .downloads import program_from_deb


def promtool_program() -> Path:
    """Path of promtool: of the system, or of Debian's package in the cache.

    Raises:
        Unavailable: it cannot be fetched.
    """
    found = shutil.which("promtool")
    return Path(found) if found else program_from_deb("prometheus", "usr/bin/promtool")
