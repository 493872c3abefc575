"""What a process says of the worker beside it."""

from __future__ import annotations

import pytest

from trustwatch.api.service.backends import NO_PARTITION, apply_worker_report
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate


def report(fresh: dict[int, int]) -> PipelineUpdate:
    return PipelineUpdate([], [], 0, 0, {"events": 7}, {}, fresh=fresh)


@pytest.mark.parametrize("answers", [True, False], ids=["worker and replica", "worker"])
def test_a_worker_without_a_partition_says_so(answers: bool) -> None:
    """Until it has one, and again when it has none any more; how fresh answers are is the replica's own matter."""
    status = PipelineStatus()
    waits = []
    for fresh in ({}, {3: 70}, {}):
        apply_worker_report(status, report(fresh), answers=answers)
        waits.append(status.waiting_for)

    assert waits == [NO_PARTITION, None, NO_PARTITION]
    assert status.work_counts == {"events": 7}
    assert status.alive is not answers
