"""Builds wheels and source archives, ours and the client's, of the commit that is checked out: `make dist`.

Builds are reproducible byte for byte.

The commit is exported, so that nothing of the working folder gets in. Times are that of the commit, or of
`SOURCE_DATE_EPOCH`. setuptools packs a wheel with the given time, but a source archive with times and owners of the
files: that one is packed again.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
FILE_MODE, PROGRAM_MODE = 0o644, 0o755


def build(tree: Path, target: Path, epoch: int) -> list[Path]:
    """Wheel and source archive of both distributions, in *target*, from a folder with nothing but a commit's files.

    It is built with the setuptools that is installed (deploy/build.lock), not with the newest.
    """
    set_modes(tree)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    for project in ("client", "."):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target.resolve()), project]
        done = subprocess.run(
            command, check=False, cwd=tree, env=environment, umask=0o022, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"build_release: the build failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    archives = sorted(target.glob("*.tar.gz"))
    for archive in archives:
        archive.write_bytes(packed_again(archive.read_bytes(), epoch))
    return [*sorted(target.glob("*.whl")), *archives]


def set_modes(tree: Path) -> None:
    """The modes of a commit, independent of the umask under which the files were written."""
    for path in tree.rglob("*"):
        if not path.is_symlink():
            program = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(PROGRAM_MODE if program else FILE_MODE)


def packed_again(archive: bytes, epoch: int) -> bytes:
    """A `.tar.gz` with the same files in the order of their names, with one time and no owner."""
    plain, result = io.BytesIO(), io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda one: one.name):
            mode = PROGRAM_MODE if member.isdir() or member.mode & 0o100 else FILE_MODE
            member.mtime, member.mode, member.pax_headers = epoch, mode, {}
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    with gzip.GzipFile(filename="", fileobj=result, mode="wb", mtime=epoch) as packed:
        packed.write(plain.getvalue())
    return result.getvalue()


def git(*arguments: str) -> bytes:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def main(arguments: list[str] | None = None) -> None:
    """Build HEAD."""
    parser = argparse.ArgumentParser(prog="build_release", description=__doc__)
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist", help="must hold no other build; default: dist")
    target: Path = parser.parse_args(arguments).outdir
    if target.is_dir() and any(target.iterdir()):
        raise SystemExit(f"build_release: {target} is not empty: whoever uploads it would upload what is there, too")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct"))
    with TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=git("archive", "--format=tar", "HEAD"), check=True)
        for path in build(Path(folder), target, epoch):
            print(path)


if __name__ == "__main__":
    main()
