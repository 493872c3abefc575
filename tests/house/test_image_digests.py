"""Digests of images, and what the night asks of services that may be away: that is said aloud, a finding fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts import image_digests

from ..support.checkout import ROOT

FIRST, SECOND = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def executable(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o700)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that names images, and a registry that knows a digest of each but of `gone`."""
    (tmp_path / "Dockerfile").write_text("FROM python:3.13-slim AS base\nFROM base AS build\nFROM base\n")
    compose = "services:\n  ours:\n    image: trustwatch:0.2.0\n  db:\n    image: library/postgres:17.7\n"
    (tmp_path / "docker-compose.yml").write_text(compose)
    (tmp_path / "bin").mkdir()
    known = f'case "$2" in *gone*) echo no such image >&2; exit 1;; *python*) echo {FIRST};; *) echo {SECOND};; esac'
    executable(tmp_path / "bin" / "crane", known)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(image_digests, "_ASKING", {"crane": ("crane", "digest")})
    return tmp_path


def test_digests_are_written_behind_versions_and_then_compared(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of images of a registry alone; a version that has another digest by now is told."""
    assert image_digests.main([], named) == 0
    assert capsys.readouterr().out.count("not pinned") == 2
    assert image_digests.main(["--write"], named) == 0
    assert f"FROM python:3.13-slim@{FIRST} AS base\nFROM base AS build" in (named / "Dockerfile").read_text()
    compose = (named / "docker-compose.yml").read_text()
    assert f"image: library/postgres:17.7@{SECOND}\n" in compose
    assert "image: trustwatch:0.2.0\n" in compose
    assert image_digests.main([], named) == 0
    (named / "Dockerfile").write_text(f"FROM python:3.13-slim@{SECOND}\n")
    capsys.readouterr()
    assert image_digests.main([], named) == 1
    assert f"PINNED TO {SECOND}" in capsys.readouterr().out


@pytest.mark.parametrize("tools", [{"crane": ("crane", "digest")}, {"no-such-tool": ("no-such-tool",)}])
def test_digests_that_nobody_tells_are_no_success(
    named: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tools: dict[str, tuple[str, ...]]
) -> None:
    """Neither without a program that asks nor where the registry does not answer; nothing is written."""
    monkeypatch.setattr(image_digests, "_ASKING", tools)
    (named / "Dockerfile").write_text("FROM gone:1\n")
    assert image_digests.main(["--write"], named) == 2
    assert "NOT EVERY DIGEST WAS CHECKED" in capsys.readouterr().err
    assert "@" not in (named / "docker-compose.yml").read_text()


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

    So does a copy of the advisories that can not be read.
    """
    lines = f'echo "$@" >> {tmp_path}/asked; case "$2" in scripts.audit) exit {audit};; *) exit {digests};; esac'
    executable(tmp_path / "python", lines)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "ADVISORIES": copy}
    done = subprocess.run([ROOT / ".ci/supply-chain"], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode != 0) is fails
    assert done.stdout.count("##### NOT CHECKED") == told
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["-m scripts.audit" + (f" --advisories {copy}" if copy else ""), "-m scripts.image_digests"]
