"""kill -9 of the pipeline and of the whole service: what was acknowledged counts exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ..support.nightly import size

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KILLS = size(each_push=3, nightly=6)


class Sender(threading.Thread):
    """Posts batches one after the other, as a gateway does: a batch without an answer is sent again until it has one.

    Every batch ends with a record that is no event. What was answered with 202 is in `acknowledged` and `refused`.
    """

    def __init__(self, service: Any, make_event: Any, name: str, *, retry: bool) -> None:
        super().__init__()
        self._service, self._make_event, self._name, self._retry = service, make_event, name, retry
        self._headers = {"content-type": "application/x-ndjson", **service.auth()}
        self.acknowledged: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.letters: list[str] = []
        self.ended = threading.Event()
        self.batches = 0

    def run(self) -> None:
        with httpx2.Client(base_url=self._service.url, timeout=10.0) as client:
            while not self.ended.is_set():
                agents = [f"{self._name}-{random.randrange(40)}" for _ in range(25)]
                lines = [
                    json.dumps(self._make_event(agent) | {"id": f"{self._name}:{self.batches}:{position}"})
                    for position, agent in enumerate(agents)
                ]
                body = "\n".join([*lines, f'{{"no event": "{self._name}:{self.batches}"}}']).encode()
                self.batches += 1
                while not self._post(client, body, agents) and self._retry and not self.ended.is_set():
                    time.sleep(0.1)

    def _post(self, client: httpx2.Client, body: bytes, agents: list[str]) -> bool:
        try:
            answer = client.post("/v1/events", content=body, headers=self._headers)
        except httpx2.TransportError:
            self.unanswered.update([] if self._retry else agents)
            return False
        if answer.status_code != 202:
            return False
        receipt = answer.json()
        assert receipt["accepted"] + receipt["duplicate"] == len(agents)
        self.acknowledged.update(agents)
        self.letters.append(receipt["rejections"][0]["dead_letter_id"])
        return True


def test_killed_service_applies_every_acknowledged_event_exactly_once(service: Any, make_event: Any) -> None:
    """Killed in the middle of POSTs again and again; afterwards each agent's count and all dead letters are right.

    One sender repeats what was not answered: its counts are exact. Another never does: what it got no answer for may
    count or not, and nothing else.
    """
    service.start()
    senders = [Sender(service, make_event, "again", retry=True), Sender(service, make_event, "never", retry=False)]
    for sender in senders:
        sender.start()
    for _ in range(KILLS):
        before = sum(sender.acknowledged.total() for sender in senders)
        service.wait(lambda: sum(sender.acknowledged.total() for sender in senders) > before + 200)  # noqa: B023
        time.sleep(random.uniform(0.0, 0.5))
        service.kill()
        service.start(ready=False)
    service.wait(service.is_ready)
    time.sleep(0.5)
    for sender in senders:
        sender.ended.set()
    for sender in senders:
        sender.join()
    service.settle()
    counts = service.counts()
    again, never = senders
    # The last batch may have been given up while it was sent; its events are then the only ones without an answer.
    given_up = again.batches * 25 - again.acknowledged.total()
    assert given_up in (0, 25)
    surplus = Counter({a: n for a, n in counts.items() if a.startswith("again")}) - again.acknowledged
    assert surplus.total() in (0, given_up)
    assert not again.acknowledged - Counter(counts)
    for agent, acknowledged in never.acknowledged.items():
        assert acknowledged <= counts[agent] <= acknowledged + never.unanswered[agent], agent
    letters = {row["letter_id"] for row in service.pages("/v1/dead-letters")}
    assert set(again.letters + never.letters) <= letters
    assert len(letters) <= again.batches + never.batches + KILLS  # a repeated batch keeps its wrong record again
    assert service.stop() == 0
    assert "Traceback" not in service.log()


class SentEvents(Counter[str]):
    """Events that a service has accepted, by agent."""

    def __init__(self, service: Any, make_event: Any) -> None:
        super().__init__()
        self._service, self._make_event = service, make_event

    def send(self, start: int) -> None:
        """Send a hundred of seven agents, from the event *start* on."""
        events = [self._make_event(f"p-{number % 7}", start + number) for number in range(100)]
        assert self._service.send(events).json()["accepted"] == 100
        self.update(event["agent"]["id"] for event in events)


def test_killed_pipeline_comes_back_and_loses_nothing(make_service: Any, make_event: Any) -> None:
    """Events are taken in while the pipeline is dead; readiness and answers say so; later all of them count once."""
    service = make_service("risk: {staleness_s: 1.5}\n")
    service.start()
    sent = SentEvents(service, make_event)
    for round_ in range(size(each_push=2, nightly=3)):
        sent.send(round_ * 1000)
        killed = service.pipeline_pid()
        os.kill(killed, signal.SIGKILL)
        sent.send(round_ * 1000 + 500)
        service.wait(lambda: service.client.get("/readyz").status_code == 503)
        service.wait(lambda: service.get("/v1/agents/p-0/risk").json()["stale"])
        service.wait(service.is_ready)
        assert service.pipeline_pid() != killed
        service.settle()
        service.wait(lambda: not service.get("/v1/agents/p-0/risk").json()["stale"])
        assert service.counts(prefix="p-") == dict(sent)
    assert service.stop() == 0


def test_stopped_pipeline_is_stale_and_the_service_still_ends(make_service: Any, make_event: Any) -> None:
    """A pipeline that hangs (SIGSTOP) turns answers stale and readiness off; when it goes on, all is well."""
    service = make_service("risk: {staleness_s: 1.5}\n")
    service.start()
    pid = service.pipeline_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert service.send([make_event("hung", n) for n in range(10)]).json()["accepted"] == 10
        service.wait(lambda: service.client.get("/readyz").status_code == 503)
        assert service.get("/v1/agents/hung/risk").json()["stale"] is True
    finally:
        os.kill(pid, signal.SIGCONT)
    service.wait(service.is_ready)
    service.settle()
    assert service.counts(prefix="hung") == {"hung": 10}
