"""Completion, installed by the command and typed into a real shell of a terminal."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHIN_S = 60.0
"""Time in which a shell shows what is waited for, also on a busy machine."""


class ShellSession:
    """An interactive shell of a pseudo-terminal, with a home of its own."""

    def __init__(self, shell: str, home: Path) -> None:
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environ = {"HOME": str(home), "PATH": paths, "TERM": "xterm", "LANG": "C.UTF-8"}
        command = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", shell, "-i"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, bufsize=0)
        self.screen = ""

    def type(self, keys: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(keys.encode())

    def shows(self, text: str, within_s: float = WITHIN_S) -> bool:
        """Whether *text* comes to be on the screen; all before it is forgotten then."""
        deadline = time.monotonic() + within_s
        while text not in self.screen:
            if time.monotonic() > deadline:
                return False
            self._read()
        self.screen = self.screen.partition(text)[2]
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], 0.2)[0]:
            return
        new = self._process.stdout.read(65_536).decode(errors="replace")
        if "\x1b[c" in new or "\x1b[0c" in new:  # fish asks which terminal it is, and waits
            self.type("\x1b[?62;c")
        if "\x1b[6n" in new:
            self.type("\x1b[1;1R")
        self.screen += new

    def close(self) -> None:
        """End the shell: its terminal goes with the process that holds it."""
        with self._process:
            self._process.kill()


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A shell of this machine."""
    if shutil.which(request.param) is None:
        pytest.skip(f"NOT HERE: {request.param}")
    (tmp_path / ".zshrc").touch()  # else zsh asks its questions of a new user
    yield request.param


def open_shell(shell: str, home: Path) -> ShellSession:
    """The shell, once it has answered: its start-up files are read by then."""
    session = ShellSession(shell, home)
    session.type("stty cols 100 rows 40; echo rea''dy\n")
    assert session.shows("ready"), session.screen
    return session


def test_commands_and_options_are_completed_once_it_is_installed(shell: str, tmp_path: Path) -> None:
    """By the shell's own name for it, without a question; the next shell completes."""
    first = open_shell(shell, tmp_path)
    try:
        first.type("trustwatch --install-completion\n")
        assert first.shows("completion installed in"), first.screen
    finally:
        first.close()
    session = open_shell(shell, tmp_path)
    try:
        if shell == "zsh":  # its first completion loads the function (reference/command-line.md)
            session.type("trustwatch simu\t")
            session.shows("\a", 10.0)
            session.type("\x15")
        session.type("trustwatch simu\t")
        assert session.shows("late"), session.screen
        session.type("\x15trustwatch agents --pre\t")
        assert session.shows("fix"), session.screen
    finally:
        session.close()
