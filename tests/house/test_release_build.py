"""Whoever builds a release gets its bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

from scripts import build_release

from ..support.checkout import ROOT

EPOCH = 1_750_000_000


def copied(folder: Path, umask: int, changed_s: int) -> Path:
    """The files of git in a folder of somebody with another umask, who checked them out at another time."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            shutil.copy(source, target)
            target.chmod((0o777 if source.stat().st_mode & 0o100 else 0o666) & ~umask)
            os.utime(target, (changed_s, changed_s))
    return folder


def test_two_builds_are_equal(tmp_path: Path) -> None:
    """Two folders, two umasks, two days: one wheel and one source archive, with the time that they were told."""
    digests = []
    for number, (umask, changed_s) in enumerate([(0o022, EPOCH + 86_400), (0o077, EPOCH + 200_000)]):
        target = tmp_path / f"dist-{number}"
        built = build_release.build(copied(tmp_path / f"tree-{number}", umask, changed_s), target, EPOCH)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built})

    assert sorted(name.rpartition(".")[2] for name in digests[0]) == ["gz", "gz", "whl", "whl"]
    assert digests[0] == digests[1]
    for wheel in target.glob("*.whl"):
        with ZipFile(wheel) as packed:
            assert {entry.date_time for entry in packed.infolist()} == {(2025, 6, 15, 15, 6, 40)}
