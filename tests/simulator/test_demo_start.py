"""Time-outs of the demo while its service starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx2
import pytest

from trustwatch.simulator import demo

REASON = "kernels are compiled"


@pytest.fixture
def service() -> Iterator[subprocess.Popen[bytes]]:
    """A process that goes on."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed: a pause takes no time."""
    now = [0.0]

    def sleep(pause_s: float) -> None:
        now[0] += 100 * pause_s

    monkeypatch.setattr(demo.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(demo.clock, "sleep", sleep)
    return now


def answering(answer: Callable[[], httpx2.Response]) -> httpx2.Client:
    return httpx2.Client(base_url="http://127.0.0.1", transport=httpx2.MockTransport(lambda _: answer()))


@pytest.mark.parametrize(("ready_after_s", "is_ready"), [(100.0, True), (1_700.0, True), (1_900.0, False)])
def test_a_service_that_says_why_it_is_not_ready_gets_half_an_hour(
    service: subprocess.Popen[bytes], passed: list[float], ready_after_s: float, is_ready: bool
) -> None:
    said: list[str] = []

    def answer() -> httpx2.Response:
        return httpx2.Response(200) if passed[0] >= ready_after_s else httpx2.Response(503, json={"reason": REASON})

    with answering(answer) as client:
        assert demo.wait_until_ready(service, client, said.append) is is_ready
    assert said == [f"   {REASON}"]


def test_a_service_that_says_nothing_gets_four_minutes(service: subprocess.Popen[bytes], passed: list[float]) -> None:
    def refuse() -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    for answer in (refuse, lambda: httpx2.Response(503, json={"ready": False})):
        passed[0] = 0.0
        with answering(answer) as client:
            assert not demo.wait_until_ready(service, client, print)
        assert 240 <= passed[0] < 300


def test_a_service_that_ended_is_not_waited_for(service: subprocess.Popen[bytes], passed: list[float]) -> None:
    service.kill()
    service.wait()
    with answering(lambda: httpx2.Response(200)) as client:
        assert not demo.wait_until_ready(service, client, print)
    assert passed[0] == 0.0
