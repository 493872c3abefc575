"""Digests of images, and what the night asks of services that may be away: that is said aloud, a finding fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ..support.checkout import ROOT

FIRST, SECOND = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def executable(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o700)


@pytest.mark.parametrize(
    ("audit", "digests", "copy", "fails", "told"),
    [
        (0, 0, "", False, 0),
        (2, 2, "", False, 2),
        (2, 0, "", False, 1),
        (1, 2, "", True, 1),
        (0, 1, "", True, 0),
        (3, 0, "", True, 0),
        (0, 2, "all.zip", False, 1),
        (2, 2, "no.zip", True, 1),
    ],
)
def test_the_night_skips_aloud_and_fails_on_a_finding(
    tmp_path: Path, audit: int, digests: int, copy: str, *, fails: bool, told: int
) -> None:
    """Where no service answers nothing was checked, which nobody can miss; a weakness or another image fails.

    So does a copy of the advisories that cannot be read.
    """
    lines = f'echo "$@" >> {tmp_path}/asked; case "$2" in scripts.audit) exit {audit};; *) exit {digests};; esac'
    executable(tmp_path / "python", lines)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "ADVISORIES": copy}
    done = subprocess.run([ROOT / ".ci/supply-chain"], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode != 0) is fails
    assert done.stdout.count("##### NOT CHECKED") == told
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["-m scripts.audit" + (f" --advisories {copy}" if copy else ""), "-m scripts.image_digests"]
