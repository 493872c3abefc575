"""The archive of the real service: what was acknowledged is in it, also behind a kill -9."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trustwatch.ingest.archive.reader import raw_lines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def archiver_pid(service_pid: int) -> int | None:
    """The archiving process of a service."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == service_pid and b"trustwatch.api.serve.archiver" in command:
            return int(path.parent.name)
    return None


def test_everything_taken_is_archived_once(make_service: Callable[..., Any], make_event: Any) -> None:
    """Killed half way and started again; repeated events are archived once; a stop archives the rest."""
    service = make_service("archive: {directory: archive, interval_s: 0.2}\n")
    service.start()
    folder = service.folder / "archive"
    assert service.send([make_event("a", n) for n in range(50)]).json()["accepted"] == 50
    service.wait(lambda: (folder / "_position.json").exists() and len(list(raw_lines(folder))) == 50)
    first = service.wait(lambda: archiver_pid(service.process.pid))
    os.kill(first, signal.SIGKILL)
    service.send([make_event("a", n) for n in range(25, 120)])
    service.wait(lambda: archiver_pid(service.process.pid) not in (None, first))
    service.wait(lambda: len(list(raw_lines(folder))) >= 120)
    service.send([make_event("b", n) for n in range(120, 150)])
    assert service.stop() == 0
    archived = [json.loads(line) for line in raw_lines(folder)]
    assert len({event["id"] for event in archived}) == len(archived) == 150
    assert "Traceback" not in service.log()
