"""`scripts/services` knows a process that is being loaded from one that has ended."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.service_stack import system
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


def test_no_port_is_given_twice_and_no_worker_has_that_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that a test killed finds its port free, whatever other services were started meanwhile."""
    shares = [set(system.ports_of_worker(f"gw{number}")) for number in range(system.MAX_WORKERS)]
    assert sum(map(len, shares)) == len(set().union(*shares)) <= len(system.PORTS)
    monkeypatch.setattr(system, "_given", set())
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    given = [port for _ in range(60) for port in system.free_ports(3)]
    assert len(set(given)) == 180 and set(given) <= shares[3]
    monkeypatch.setattr(system, "_given", set(shares[3]))
    assert len(system.free_ports(2)) == 2
