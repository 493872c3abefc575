"""A sender that floods the service is slowed; the others' events are taken all the while."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process run a tenth of the time, so that a sender on this machine outruns it for sure."""
    ended = threading.Event()

    def stop_and_go() -> None:
        while not ended.wait(0.02):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.18)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_flood_is_slowed_and_nobody_else(service: Any, make_event: Any) -> None:
    """429 `fairness` with the time to wait for whoever floods; who sends an event a moment is never refused."""
    service.start()
    batches = [
        "\n".join(json.dumps(make_event(f"flood-{n % 50}", f"{batch}-{n}")) for n in range(5_000)).encode()
        for batch in range(60)
    ]
    service.send([make_event("quiet", "first")], client="acme")
    service.settle()
    quiet, noisy = [], []
    with slowed(service.pipeline_pid()):
        deadline = time.monotonic() + 60
        while batches and time.monotonic() < deadline and sum(answer.status_code == 429 for answer in noisy) < 5:
            noisy.append(service.post(batches[-1]))
            if noisy[-1].status_code == 202:
                batches.pop()
            quiet.append(service.send([make_event("quiet", len(quiet))], client="acme"))
            time.sleep(0.1)
    refusals = [answer for answer in noisy if answer.status_code == 429]
    assert refusals, f"{len(noisy)} batches were taken"
    assert "sends more than its share" in refusals[0].json()["detail"]
    assert 1 <= int(refusals[0].headers["retry-after"]) <= 30
    assert {answer.status_code for answer in quiet} == {202}
    name = 'trustwatch_limited_requests_total{limit="fairness",source="all"}'
    assert service.metric(name) == len(refusals)
    service.settle()
    service.wait(lambda: service.post(batches[-1]).status_code == 202)  # nothing waits any more
