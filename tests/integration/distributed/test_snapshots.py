"""A worker is killed whose partition has thousands of agents: the next one reads copies of their rows, and goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ...support.distributed_testbed import tell, wait
from ...support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), nightly]

RESIDENTS = 20_000
IN_MEMORY = "stored agents of the partition are in memory"


def test_a_killed_worker_leaves_copies_to_the_next_one(make_rig: Any, kafka: Any, load: Any) -> None:
    """Most of its agents come from files, those that acted since from rows; the end is that of an undisturbed run."""
    rig = make_rig(kafka, partitions=1, residents=RESIDENTS, client="confluent")
    first = rig.worker()
    first.working()
    early = load(rig, rate=0, most=30_000, clones=1_000)
    wait(lambda: not early.is_alive(), 120.0, "all of the first events sent")
    sent = early.end()
    rig.settle()
    wait(lambda: first.count("snapshots") >= 1 and _copied(rig) > 0.9 * len(sent), 120.0, "copies of most rows")
    late = load(rig, rate=500, most=60_000, clones=1_000)
    late.reached(500)
    first.kill()
    second = rig.worker()
    wait(lambda: IN_MEMORY in second.log(), 120.0, "its agents in memory")
    late.reached(500)
    sent += late.end()
    rig.settle()
    told = next(json.loads(line) for line in second.log().splitlines() if IN_MEMORY in line)
    agents, copies = told["agents"], told["copies_read"]
    tell(f"{agents} agents in memory, {copies} copies read")
    assert copies > 0.5 * agents
    rig.check_end(sent)
    assert "Traceback" not in rig.logs() and "rows are read instead" not in rig.logs()


def _copied(rig: Any) -> int:
    return sum(snapshot.agents for snapshot in rig.store.snapshots.list_of(0))
