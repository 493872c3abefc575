"""A worker that was away for a day: it says how far behind it is, stays small, and catches up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from .rig import QUIET, wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), *QUIET]

BACKLOG = 300_000
MORE_MIB = 200.0
"""What it may take on top of a worker that has nothing to do: what is fetched ahead, agents, and the window."""


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int((Path(f"/proc/{pid}/statm").read_text()).split()[1]) * 4096 / 2**20


def test_backlog_of_a_day_is_caught_up_with_in_bounded_memory(
    rig: Any, load: Any, serve: Any, record_property: Any
) -> None:
    """300,000 records, some 200 MB of them, wait when it starts."""
    service = serve(rig, "--workers-only")
    wait(service.is_ready, 90.0)
    wait(lambda: service.metric("trustwatch_pipeline_offset") > 0, 30.0, "its first tick")
    idle_mib = rss_mib(service.pipeline_pid())
    assert service.stop() == 0

    sent = load(rig, rate=0, most=BACKLOG)
    sent.join(120.0)
    assert sent.total >= BACKLOG
    started = time.monotonic()
    service.start(ready=False)
    behind, memory, done = [], [], threading.Event()

    def caught_up() -> bool:
        behind.append(service.metric("trustwatch_pipeline_behind"))
        memory.append(rss_mib(service.pipeline_pid() or 0))
        return sum(rig.offsets().values()) > BACKLOG and behind[-1] < 1000

    wait(service.is_ready, 60.0)
    wait(caught_up, 120.0, "the backlog")
    took_s = time.monotonic() - started
    record_property("caught up in, s", round(took_s, 1))
    record_property("resident at most and idle, MiB", (round(max(memory)), round(idle_mib)))
    assert max(behind) > BACKLOG / 2
    assert max(memory) < idle_mib + MORE_MIB
    done.set()
    assert service.stop() == 0
    state = rig.state()
    assert sum(row.events for row in state.agents.values()) == sent.total
    assert "Traceback" not in service.log()
