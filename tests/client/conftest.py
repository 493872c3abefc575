"""Fixtures of the client's tests: each runs with the sync and the async form."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trustwatch_client import (
    AsyncCallVerdicts,
    AsyncEventSender,
    AsyncTrustClient,
    CallVerdicts,
    EventSender,
    TrustClient,
)

from ..support.client_doubles import Clock, Looped, Scripted


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def _maker(request: pytest.FixtureRequest, kinds: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """Makes objects of the kind that the test's parameter names; closes them."""
    made: list[Any] = []
    kind = kinds[request.param]
    loop = request.getfixturevalue("loop") if request.param == "async" else None

    def make(*arguments: Any, **named: Any) -> Any:
        made.append(kind(*arguments, **named) if loop is None else Looped(loop, lambda: kind(*arguments, **named)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients, sync in one run of the test and async in the other."""
    yield from _maker(request, {"sync": TrustClient, "async": AsyncTrustClient})


@pytest.fixture(params=["sync", "async"])
def make_sender(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes senders, sync in one run of the test and async in the other."""
    yield from _maker(request, {"sync": EventSender, "async": AsyncEventSender})


@pytest.fixture(params=["sync", "async"])
def make_verdicts(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes askers of verdicts on calls, sync in one run of the test and async in the other."""
    yield from _maker(request, {"sync": CallVerdicts, "async": AsyncCallVerdicts})
