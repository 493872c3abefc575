"""The demo does what it prints: events, levels with reasons, a curl line that works, and an orderly end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]


@contextlib.contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The demo in a process group of its own, as from a terminal; and its lines as they come."""
    command = [sys.executable, "-m", "trustwatch", "demo", "--directory", str(directory), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout))  # type: ignore[arg-type]
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
        reader.join()
        process.stdout.close()


def test_demo_says_what_happened_and_its_curl_line_works_until_ctrl_c(tmp_path: Path) -> None:
    """At least one level change with its reason names an attack; both attacks are noticed. Then it stays up, the line
    answers with the risk of an attacked agent, and Ctrl-C ends all processes with status 0.

    That it ends by itself with `--exit` is shown by `make demo ARGS=--exit` in `.ci/run`.
    """
    with demo(tmp_path / "demo", "--seconds", "10") as (process, lines):
        deadline = time.monotonic() + 300
        while not any("Ctrl-C" in line for line in lines) and time.monotonic() < deadline:
            assert process.poll() is None, lines
            time.sleep(0.1)
        (line,) = (line for line in lines if line.lstrip().startswith("curl "))
        if shutil.which("curl"):
            answer = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=20)
            assert answer.returncode == 0
            assert json.loads(answer.stdout)["risk_level"] in ("low", "medium", "high", "critical")
        log = tmp_path / "demo" / "service.log"
        assert "error" not in log.read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    assert lines[-1] == "The service has stopped.\n"
    text = "".join(lines)
    assert re.search(r"-> (medium|high|critical) .*: .+<- (scope_creep|stolen_credential)", text), text
    assert "2 of 2 attacked agents noticed" in text
    assert re.search(r"[1-9]\d* alerts with a valid signature came to the demo's webhook, 0 without", text), text
    assert text.count("kept as a dead letter") == 1
    assert "Traceback" not in text + log.read_text()


def test_demo_refuses_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    """It empties its directory; so a directory with other things in it is refused, not emptied."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with demo(tmp_path, "--exit", "--seconds", "10") as (process, lines):
        assert process.wait(30) == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert len(lines) == 1
    assert str(tmp_path) in lines[0]
