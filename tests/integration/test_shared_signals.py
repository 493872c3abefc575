"""Security event tokens of the real service: kill -9 before an acknowledgement loses none, after it repeats none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from trustwatch.scoring.delivery.shared_signals.event_types import RISK_LEVEL_CHANGE

from ..support.nightly import size
from ..support.service_process import ModelAndDay, Service
from ..support.shared_signals import Receiver, SetReceiver

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SETTINGS = "shared_signals: {enabled: true, push_hosts: [127.0.0.1]}\n"
KILLS = size(each_push=1, nightly=4)
REFUSALS = 3
TOLD = ("medium", "high", "critical")


@pytest.fixture
def pushed() -> Iterator[SetReceiver]:
    """A receiver of pushes that outlives the service."""
    made = SetReceiver()
    yield made
    made.close()


class Poller:
    """Polls one stream, acknowledges what it is told to, and remembers all of it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.receiver = Receiver(service.client, service.token("all", "ssf.manage"))
        self.stream = self.receiver.create((RISK_LEVEL_CHANGE,))
        self.taken: dict[str, str] = {}
        """`txn` by `jti` of what was acknowledged."""

    def poll(self, acknowledge: int = 100) -> int:
        """One poll, then the acknowledgement of the first SETs of it; returns how many came."""
        sets = self.receiver.sets(self.stream)
        assert not {claims["jti"] for claims in sets} & self.taken.keys()
        chosen = {claims["jti"]: claims["txn"] for claims in sets[:acknowledge]}
        answer = self.receiver.poll(self.stream, ack=list(chosen), maxEvents=0)
        assert answer.status_code == 200
        self.taken |= chosen
        return len(sets)


def announced_decisions(service: Service) -> list[str]:
    """Ids of decisions that receivers are to be told of."""
    rows = service.pages("/v1/decisions")
    return sorted(row["decision_id"] for row in rows if {row["previous_level"], row["level"]} & {*TOLD})


def test_killed_service_loses_no_token_and_repeats_none_that_was_acknowledged(
    make_service: Callable[..., Service], world: ModelAndDay, pushed: SetReceiver
) -> None:
    """The simulated day in parts; in each but the last the service is killed when some of what waits is acknowledged.

    One receiver polls, another one is pushed to and refuses at first.
    """
    service = make_service(SETTINGS)
    service.start()
    poller = Poller(service)
    push_stream = poller.receiver.create_push(pushed.url, "Bearer of-the-receiver", events=(RISK_LEVEL_CHANGE,))
    pushed.answers += [(503, b"")] * REFUSALS
    part = len(world.day) // (KILLS + 1) + 1
    for start in range(0, len(world.day), part):
        assert service.post(b"\n".join(world.day[start : start + part])).status_code == 202
        if start + part < len(world.day):
            service.wait(lambda: poller.poll(acknowledge=1) > 1)
            service.kill()
            service.start()
    service.settle()
    told = announced_decisions(service)
    assert len(told) > 3

    service.wait(lambda: poller.poll() == 0 and len(poller.taken) >= len(told), 20.0)
    assert sorted(poller.taken.values()) == told
    service.wait(lambda: len({*pushed.tokens}) >= len(told), 20.0)
    came = Counter(poller.receiver.verified(token, push_stream)["txn"] for token in pushed.tokens)
    assert sorted(came) == told
    assert came.total() - len(told) <= REFUSALS + KILLS  # what was taken a moment before a kill may come again
    assert {headers["authorization"] for headers, _ in pushed.got} == {"Bearer of-the-receiver"}
    assert "of-the-receiver" not in service.log()
    assert service.stop() == 0
    assert "Traceback" not in service.log()
