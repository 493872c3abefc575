"""A given HTTP client must be of httpx2, whose errors are handled; else the constructor raises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import httpx2
import pytest

from trustwatch_client import (
    Approvals,
    AsyncCallVerdicts,
    AsyncEventSender,
    AsyncTrustClient,
    CallVerdicts,
    EventSender,
    OriginKeys,
    RiskSettings,
    SenderSettings,
    TrustClient,
)

URL = "https://trust.example"
RISK = RiskSettings(fail_mode="open")


def token() -> str:
    return "some-token"


THREADS: dict[str, Callable[..., object]] = {
    "risk": lambda http: TrustClient(URL, token, RISK, http=http),
    "calls": lambda http: CallVerdicts(URL, token, fail_mode="open", http=http),
    "events": lambda http: EventSender(URL, token, SenderSettings(source="urn:here"), http=http),
    "keys": lambda http: OriginKeys(URL, token, http=http),
}
ASYNC: dict[str, Callable[..., object]] = {
    "risk": lambda http: AsyncTrustClient(URL, token, RISK, http=http),
    "calls": lambda http: AsyncCallVerdicts(URL, token, fail_mode="open", http=http),
    "events": lambda http: AsyncEventSender(URL, token, SenderSettings(source="urn:here"), http=http),
    "approvals": lambda http: Approvals(URL, token, http=http),
}


@pytest.mark.parametrize("name", THREADS)
def test_a_client_of_threads(name: str) -> None:
    with httpx.Client() as old, pytest.raises(TypeError, match=r"http is httpx\.Client; it must be an httpx2\.Client"):
        THREADS[name](old)
    with pytest.raises(TypeError, match=r"httpx2.*AsyncClient; it must be an httpx2\.Client"):
        THREADS[name](httpx2.AsyncClient())


@pytest.mark.parametrize("name", ASYNC)
def test_a_client_of_asyncio(name: str) -> None:
    async def work() -> None:
        async with httpx.AsyncClient() as old:
            with pytest.raises(TypeError, match=r"http is httpx\.AsyncClient; it must be an httpx2\.AsyncClient"):
                ASYNC[name](old)
        with httpx2.Client() as sync, pytest.raises(TypeError, match=r"it must be an httpx2\.AsyncClient"):
            ASYNC[name](sync)

    asyncio.run(work())
