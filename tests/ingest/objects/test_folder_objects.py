"""Objects in a folder: what lies on the disk, what a crash leaves, and what a folder can not do."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trustwatch.ingest.errors import ConfigError, ObjectMissing, Unavailable
from trustwatch.ingest.objects import folder_objects
from trustwatch.ingest.objects.folder_objects import LEFT_BEHIND_S, FolderObjects

CRASHING = """
import os, sys
from pathlib import Path
from trustwatch.ingest import durable_files
from trustwatch.ingest.objects.folder_objects import FolderObjects
durable_files.sync_file = lambda file: (file.flush(), os._exit(9))
FolderObjects(Path(sys.argv[1])).put("a/b", b"half of it")
"""
FULL_DISK = """
import sys
from pathlib import Path
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.objects.folder_objects import FolderObjects
store = FolderObjects(Path(sys.argv[1]) / "objects")
store.put("a", b"old")
try:
    store.put("a", bytes(1 << 20))
except Unavailable as error:
    print(error)
try:
    while True:
        with (Path(sys.argv[1]) / "filler").open("ab", buffering=0) as file:
            file.write(b"x" * 512)
except OSError:
    pass
try:
    store.check()
except ConfigError as error:
    print(error)
files = [path.name for path in (Path(sys.argv[1]) / "objects").rglob("*") if path.is_file()]
print(store.get("a"), store.list_names(""), files)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "above" / "objects"


@pytest.fixture
def store(root: Path) -> FolderObjects:
    return FolderObjects(root)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_only_the_owner_reads_them(store: FolderObjects, root: Path) -> None:
    """Whatever the umask lets others do."""
    before = os.umask(0)
    try:
        store.put("a/b/c", b"1")
        store.put("a/b/c", b"2")
    finally:
        os.umask(before)

    assert mode(root / "a/b/c") == 0o600
    assert {mode(root), mode(root / "a"), mode(root / "a/b")} == {0o700}


def test_every_name_is_synced(store: FolderObjects, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the file and all above it, also those that another writer made a moment ago."""
    synced: list[Path] = []
    monkeypatch.setattr(folder_objects, "sync_directory", synced.append)
    (root / "a" / "b").mkdir(parents=True)

    store.put("a/b/c", b"1")

    assert set(synced) == {root, root / "a"}  # that of the file: `write_file_atomically`


def test_deleting_leaves_no_empty_folders(store: FolderObjects, root: Path) -> None:
    """But the root, and what holds another object."""
    for name in ("a/b/c", "a/d", "e/f/g"):
        store.put(name, b"x")

    store.delete(["a/b/c", "e/f/g"])
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == ["a", "a/d"]
    store.delete(["a/d"])
    assert list(root.iterdir()) == []


def test_a_crash_leaves_the_old_object(store: FolderObjects, root: Path) -> None:
    """Half of the new one is never listed, stays while its writer may live, and goes an hour later."""
    store.put("a/b", b"old")
    done = subprocess.run([sys.executable, "-c", CRASHING, str(root)], check=False)
    (left,) = [root / name for name in files(root) if name != "a/b"]

    assert done.returncode == 9
    assert left.read_bytes() == b"half of it"
    assert (store.get("a/b"), store.list_names("")) == (b"old", ["a/b"])
    store.check()
    assert left.exists()
    assert [store.count_unfinished(age_s) for age_s in (0.0, LEFT_BEHIND_S)] == [1, 0]

    aged = left.stat().st_mtime - LEFT_BEHIND_S - 60
    os.utime(left, (aged, aged))
    os.utime(root / "a/b", (aged, aged))
    store.check()
    assert files(root) == ["a/b"]


def test_files_of_others_stay_and_are_not_objects(store: FolderObjects, root: Path) -> None:
    for name in (".hidden", "Upper", "a b", ".tmp"):
        (root / name).write_bytes(b"of somebody else")
        os.utime(root / name, (1, 1))

    store.check()

    assert store.list_names("") == []
    assert files(root) == sorted((".hidden", "Upper", "a b", ".tmp"))


def test_a_folder_is_no_object(store: FolderObjects) -> None:
    """Nor is what would lie in an object; there nothing can be put."""
    store.put("a/b", b"1")

    for name in ("a", "a/b/c"):
        with pytest.raises(ObjectMissing, match=name):
            store.get(name)
        with pytest.raises(Unavailable):
            store.put(name, b"2")
    store.delete(["a", "a/b/c"])
    assert store.list_names("") == ["a/b"]
    assert store.get("a/b") == b"1"


def test_a_disk_that_is_gone_is_no_missing_object(store: FolderObjects, root: Path) -> None:
    """Whoever took it for one would begin anew; and it is not made again on the disk below."""
    store.put("a/b", b"1")
    shutil.rmtree(root)

    calls = (
        lambda: store.get("a/b"),
        lambda: store.list_names(""),
        lambda: store.delete(["a/b"]),
        lambda: store.put("a/b", b"2"),
        lambda: store.put("a", b"2"),
    )
    for call in calls:
        with pytest.raises(Unavailable, match="objects"):
            call()
    with pytest.raises(ConfigError, match="see to the rights"):
        store.check()
    assert not root.exists()


def test_what_is_no_folder_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for path in (tmp_path / "file", tmp_path / "file" / "objects"):
        with pytest.raises(ConfigError, match=f"{path} can not hold objects"):
            FolderObjects(path)


def test_a_full_disk_shows_and_loses_nothing(tmp_path: Path) -> None:
    """A small file system in a namespace of its own, which ends with the process."""
    script = 'mount -t tmpfs -o size=64k none "$0" && exec "$1" -c "$2" "$0"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no namespace to be had: {done.stderr.strip()}")

    assert done.stderr == ""
    put, check, rest = done.stdout.splitlines()
    assert "No space left on device" in put
    assert "No space left on device" in check and "the room of that folder" in check
    assert rest == "b'old' ['a'] ['a']"
