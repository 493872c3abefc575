"""A worker that was away for a day: it says how far behind it is, stays small, and catches up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ...support.distributed_testbed import tell, wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BACKLOG = 200_000
MORE_MIB = 160.0
"""What it may take on top of a worker that has nothing to do: what is fetched ahead, agents, the window, and the rows
of the commit that is being written beside those of the next one."""


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int((Path(f"/proc/{pid}/statm").read_text()).split()[1]) * 4096 / 2**20


QUIET_TOPIC = """\
[{{topic: {name}, name: quiet, format: native, tenants: [acme-corp], issuers: ["*"], silence_s: 10}}]"""


def test_backlog_of_a_day_is_caught_up_with_in_bounded_memory(rig: Any, load: Any, serve: Any) -> None:
    """200,000 records, some 140 MB of them, wait when it starts. A foreign topic is silent all the time."""
    foreign = f"{rig.name}.foreign"
    with rig.admin() as admin:
        topics = rig.kafka_settings.topic_names._replace(events=foreign)
        assert admin.create_topics(topics, 1, 1) == [foreign]
    service = serve(rig, "--workers-only", topics=QUIET_TOPIC.format(name=foreign))
    wait(service.is_ready, 90.0)
    wait(lambda: service.metric("trustwatch_pipeline_offset") > 0, 30.0, "its first tick")
    idle_mib = rss_mib(service.pipeline_pid())
    assert service.stop() == 0

    sent = load(rig, rate=0, most=BACKLOG)
    sent.join(120.0)
    assert sent.total >= BACKLOG
    started = time.monotonic()
    service.start(ready=False)
    behind, memory = [], []

    def caught_up() -> bool:
        behind.append(service.metric("trustwatch_pipeline_behind"))
        memory.append(rss_mib(service.pipeline_pid() or 0))
        return sum(rig.offsets().values()) > BACKLOG and behind[-1] < 1000

    wait(service.is_ready, 60.0)
    wait(caught_up, 120.0, "the backlog")
    took_s = time.monotonic() - started
    tell(f"{BACKLOG} records behind: {took_s:.1f} s, {idle_mib:.0f} MiB idle, {max(memory):.0f} MiB at most")
    assert max(behind) > BACKLOG / 2
    assert max(memory) < idle_mib + MORE_MIB
    wait(lambda: "source_silent" in service.log(), 20.0)
    wait(lambda: rig.postgres.sql("select count(*) from outbox where key like 'silence-%'", rig.database) == "1", 5.0)
    assert service.stop() == 0
    state = rig.state()
    assert sum(row.events for row in state.agents.values()) == sent.total
    assert "Traceback" not in service.log()
    silences = rig.postgres.sql("select key, level from outbox where key like 'silence-%'", rig.database)
    assert silences == "silence-topic-quiet-0|3"
