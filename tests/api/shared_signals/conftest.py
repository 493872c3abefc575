"""A service that transmits, with the work behind the routes played by the test, and receivers of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.settings.service_settings import ListenSettings
from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings
from trustwatch.api.shared_signals import service, transmitter, transmitter_context
from trustwatch.api.shared_signals.transmitter import SharedSignalsTransmitter
from trustwatch.api.shared_signals.transmitter_context import TransmitterContext
from trustwatch.scoring.records.commits import OutboxRow

from ...support.shared_signals import Receiver, SetReceiver
from ...support.signal_reception import Reception

PUBLIC = "https://trust.example"


class Transmitter:
    """The service, what is committed to it, and the work that follows."""

    def __init__(self, site: Any) -> None:
        self.site = site
        services = site.app.app.state.services
        self.context: TransmitterContext = services.get(TransmitterContext)
        self.now_s = 0.0
        self.work = SharedSignalsTransmitter(
            self.context,
            site.store,
            site.policy,
            lambda: int(site.clock() * 1000),
            lambda: self.now_s,
            random.Random(1),
        )

    def commit(self, *rows: OutboxRow) -> None:
        """Have decisions announced, and what follows from them done."""
        self.site.store.outbox.enqueue(rows)
        self.step()

    def step(self) -> None:
        """All that is due now, pushes included."""
        self.now_s += 10.0
        self.site.wait(self.work.drain())

    def receiver(self, client: str = "gateway", *scopes: str, path: str = "/.well-known/ssf-configuration") -> Receiver:
        """A third party with a token of that client."""
        return Receiver(self.site.client, self.site.token(client, *(scopes or ("ssf.manage",))), path)


@pytest.fixture
def transmit(new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Transmitter]]:
    """Makes a transmitter with further settings; names in capitals are constants of its modules."""
    made: list[Transmitter] = []

    def make(issuer: str | None = None, hooks: Any = (), **settings: Any) -> Transmitter:
        constants = {"POLL_WAIT_S": 2.0} | {name: settings.pop(name) for name in list(settings) if name.isupper()}
        for name, value in constants.items():
            for module in (service, transmitter, transmitter_context):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)
        given = {"push_hosts": ("127.0.0.1",), **settings}
        part = SharedSignalsSettings(enabled=True, issuer=issuer, **given)
        made.append(Transmitter(new_site(shared_signals=part, listen=ListenSettings(public_url=PUBLIC), hooks=hooks)))
        return made[-1]

    yield make
    for one in made:
        one.site.wait(one.work.close())


@pytest.fixture(name="transmitter")
def one_transmitter(transmit: Callable[..., Transmitter]) -> Transmitter:
    return transmit()


@pytest.fixture
def receiver(transmitter: Transmitter) -> Receiver:
    return transmitter.receiver()


@pytest.fixture
def receiver_of_pushes() -> Iterator[SetReceiver]:
    """An HTTP server on loopback."""
    made = SetReceiver()
    yield made
    made.close()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], Any]:
    """The first true answer of a function."""

    def wait(ask: Callable[[], Any], within_s: float = 10.0) -> Any:
        deadline = time.monotonic() + within_s
        while not (found := ask()):
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture
def receive(new_site: Callable[..., Any], tmp_path: Path) -> Callable[..., Reception]:
    """Makes a reception with further settings of the transmitter."""
    return lambda **settings: Reception(new_site, tmp_path, **settings)


@pytest.fixture
def reception(receive: Callable[..., Reception]) -> Reception:
    return receive()
