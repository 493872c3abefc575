"""Quick starts of `examples/`, run from their own text: files are written, commands run in order, output compared.

What the blocks of a page mean: `sh` is run, in one shell. `text` behind it is what its output has, line by line in this
order; `…` stands for anything. A comment in the line before the fence changes that: `<!-- file: NAME -->` is a file to
write, `<!-- from: PATH -->` a part of a file of the checkout, laid out as it likes. `<!-- install -->` and
`<!-- elsewhere -->` (a command for another place than this machine) are not run.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from scripts.service_stack.system import is_free

from .checkout import ROOT

EXAMPLES = ROOT / "examples"
_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_STATE = re.compile(r"scripts/services --state (\S+) start ")
SHELL, EXPECTED = "sh", "text"
INSTALL, ELSEWHERE, FILE, FROM = "install", "elsewhere", "file: ", "from: "


class Step(NamedTuple):
    """Commands, and what the page says that they print."""

    commands: str
    expected: list[str]


class QuickStart:
    """The page of one folder of `examples/`.

    *changed* texts, such as ports that must be free, are put into it and into `trustwatch.yaml` of the folder.
    """

    def __init__(self, name: str, changed: Mapping[str, str] | None = None) -> None:
        text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
        self._settings = EXAMPLES / name / "trustwatch.yaml"
        self._changed = changed or {}
        for old in self._changed:
            assert old in text, f"examples/{name}/README.md has no {old}"
        text = self._change(text)
        self.files: dict[str, str] = {}
        self.steps: list[Step] = []
        for block in _BLOCK.finditer(text):
            self._take(block["mark"] or "", block["kind"], block["text"])

    def _change(self, text: str) -> str:
        for old, new in self._changed.items():
            text = text.replace(old, new)
        return text

    def _take(self, mark: str, kind: str, text: str) -> None:
        if mark.startswith(FILE):
            self.files[mark.removeprefix(FILE)] = text
        elif mark.startswith(FROM):
            whole = (ROOT / mark.removeprefix(FROM)).read_text(encoding="utf-8")
            assert "".join(text.split()) in "".join(whole.split()), f"not {mark}: {text}"
        elif mark in (INSTALL, ELSEWHERE):
            return
        elif kind == SHELL:
            self.steps.append(Step(text, []))
        elif kind == EXPECTED:
            self.steps[-1].expected.extend(text.splitlines())
        else:
            raise AssertionError(f"what is this block for? {mark!r} {kind!r}: {text[:80]}")

    def run(self, folder: Path, timeout_s: float = 200.0) -> list[str]:
        """Run all steps in *folder*, which has the examples and scripts of the checkout; returns what each printed.

        A command that fails, or an expected line that is not there, fails the test with all output. What the page
        started is ended.
        """
        (folder / "scripts").symlink_to(ROOT / "scripts")
        shutil.copytree(EXAMPLES, folder / "examples")
        if self._settings.exists():
            copied = folder / self._settings.relative_to(ROOT)
            copied.write_text(self._change(self._settings.read_text(encoding="utf-8")), encoding="utf-8")
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        said, status = self._in_one_shell(folder, timeout_s)
        assert status == 0, f"status {status}\n" + "\n".join(said)
        for step, output in zip(self.steps, said, strict=True):
            missing = missing_lines(step.expected, output)
            assert not missing, f"not printed: {missing}\nafter:\n{step.commands}\nbut:\n{output}"
        return said

    def _in_one_shell(self, folder: Path, timeout_s: float) -> tuple[list[str], int]:
        mark = f"step {secrets.token_hex(8)}"
        script = "".join(f"{step.commands}\necho {mark}\n" for step in self.steps)
        (folder / "quick-start.sh").write_text(script, encoding="utf-8")
        output = folder / "quick-start.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "quick-start.sh"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                status = -signal.SIGALRM
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for state in _STATE.findall(script):
                    subprocess.run(["scripts/services", "--state", state, "remove"], cwd=folder, check=True)
        said = output.read_text(encoding="utf-8", errors="replace").split(f"{mark}\n")
        return (said[:-1] if status == 0 else said), status


def environment() -> dict[str, str]:
    """As a person has it who installed: our programs first in `PATH`, and no setting of Trustwatch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUSTWATCH_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def missing_lines(expected: list[str], output: str) -> list[str]:
    """Lines of *expected* that *output* does not have, in their order."""
    lines, at = output.splitlines(), 0
    missing = []
    for line in expected:
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
        found = next((row for row in range(at, len(lines)) if pattern.fullmatch(lines[row])), None)
        if found is None:
            missing.append(line)
        else:
            at = found + 1
    return missing


def free_port() -> str:
    """A port on loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def consecutive_ports(count: int) -> list[str]:
    """Ports of loopback in a row that nobody listens on now."""
    while True:
        first = int(free_port())
        if all(is_free(port) for port in range(first + 1, first + count)):
            return [str(port) for port in range(first, first + count)]
