"""Files that a crash leaves whole, and locks."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from trustwatch.ingest.durable_files import (
    create_secret_file,
    lock_file,
    write_file_atomically,
)

LOCKER = """
import sys
from pathlib import Path
from trustwatch.ingest.durable_files import lock_file
with Path(sys.argv[1]).open("a+b") as file:
    print([lock_file(file, shared=True, wait=False), lock_file(file, wait=False)])
"""


CREATOR = """
import sys
from pathlib import Path
from trustwatch.ingest.durable_files import create_secret_file
sys.stdin.read(1)
create_secret_file(Path(sys.argv[1]), sys.argv[2].encode())
print(Path(sys.argv[1]).read_text())
"""


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    write_file_atomically(path, b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_file_atomically(path, fail)

    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_nobody_else_may_read_a_secret_file(tmp_path):
    create_secret_file(tmp_path / "key", b"secret")

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_of_many_processes_the_first_one_wins(tmp_path):
    command = [sys.executable, "-c", CREATOR, str(tmp_path / "key")]
    creators = [
        subprocess.Popen([*command, f"{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for number in range(4)
    ]
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write(b"!")
        creator.stdin.flush()
    contents = {creator.communicate()[0] for creator in creators}

    assert contents == {(tmp_path / "key").read_bytes() + b"\n"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_of_many_threads_the_first_one_wins(tmp_path):
    """Two threads of one process shared a temporary file: one took it from under the other, which failed."""
    together = threading.Barrier(4)

    def create(number: int) -> list[bytes]:
        contents = []
        for attempt in range(50):
            path = tmp_path / f"{attempt}"
            together.wait(timeout=20)
            create_secret_file(path, b"%d" % number * 1_000)
            contents.append(path.read_bytes())
        return contents

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(create, range(4))

    assert all(other == first for other in others)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(f"{attempt}" for attempt in range(50))


def test_many_threads_replace_one_file(tmp_path):
    together = threading.Barrier(4)

    def replace(number: int) -> None:
        for _ in range(50):
            together.wait(timeout=20)
            write_file_atomically(tmp_path / "file", b"%d" % number * 1_000)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replace, range(4)))

    assert (tmp_path / "file").read_bytes() in {b"%d" % number * 1_000 for number in range(4)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("shared", "answer"), [(False, "[False, False]"), (True, "[True, False]")])
def test_a_lock_keeps_other_processes_out_until_the_file_is_closed(tmp_path, shared, answer):
    path = tmp_path / "lock"

    def ask() -> str:
        return subprocess.check_output([sys.executable, "-c", LOCKER, str(path)], text=True, env=os.environ).strip()

    with path.open("a+b") as file:
        assert lock_file(file, shared=shared, wait=False)
        assert ask() == answer
    assert ask() == "[True, True]"
