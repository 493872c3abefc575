"""Chromium, which the tests of the console look through: the machine's own, or Debian's."""

from __future__ import annotations

import shutil
from pathlib import Path

from .system import ServiceUnavailable, ensure_command, run

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_program() -> Path:
    """Path of a Chromium that starts; if there is none, Debian's package is installed.

    Raises:
        Unavailable: there is none and none can be installed, or it does not start.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None) or ensure_command("chromium", "chromium")
    said = run([found, "--version"], timeout_s=60)
    if said.returncode != 0:
        raise ServiceUnavailable(f"{found} does not start; it says:\n{said.stdout}")
    return Path(found)
