"""`scripts/services` knows a process that is being loaded from one that has ended."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.service_stack.system import ServerProcess


def test_a_program_that_is_being_loaded_is_alive_and_a_zombie_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has a command line: the first for the milliseconds of an exec, here told for as long as it takes."""
    child = subprocess.Popen(["sleep", "60"])
    process = ServerProcess("sleeper", "sleep", tmp_path / "log", child.pid)
    assert process.alive()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")
    assert process.alive()
    monkeypatch.undo()

    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert Path(f"/proc/{child.pid}/cmdline").read_bytes() == b""
    assert not process.alive()

    child.wait()
    assert not process.alive()


def test_an_id_that_was_given_to_another_program_is_not_the_server(tmp_path: Path) -> None:
    assert not ServerProcess("server", "a-folder-of-nobody", tmp_path / "log", os.getpid()).alive()
