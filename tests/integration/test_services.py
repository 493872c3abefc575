"""The services that the distributed tests stand on: they start, fail and come back as those tests need it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support.checkout import ROOT

pytestmark = pytest.mark.integration


def test_servers_end_with_a_killed_run(tmp_path: Path) -> None:
    from scripts import service_stack

    script = (
        "import sys, time; from pathlib import Path; from scripts.service_stack import Postgres\n"
        "server = Postgres(Path(sys.argv[1]), bound=True); server.start(); print(server.status()['pid'], flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        run.send_signal(signal.SIGKILL)
        run.wait()

    deadline = time.monotonic() + 90
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service_stack.Postgres(tmp_path).remove()
