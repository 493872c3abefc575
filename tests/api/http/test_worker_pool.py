"""Processes for bulk work: one that ends, grows or hangs fails its own request only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest

from trustwatch.api.http import worker_pool
from trustwatch.api.http.worker_pool import UnprocessableWork, WorkerPool
from trustwatch.ingest.formats.bodies import BodyTooLarge


def run(*work: tuple[Callable[..., object], tuple[object, ...]]) -> list[object]:
    async def all_of_it() -> list[object]:
        pool, results = WorkerPool(), list[object]()
        for function, args in work:
            try:
                results.append(await pool.run(function, *args))
            except Exception as error:
                results.append(error)
        return results

    return asyncio.run(all_of_it())


def test_a_process_that_ends_fails_its_own_call() -> None:
    ended, after = run((os.abort, ()), (os.getpid, ()))

    assert isinstance(ended, UnprocessableWork) and "send or ask less" in str(ended)
    assert isinstance(after, int) and after != os.getpid()


def test_memory_is_limited_and_the_process_is_used_again() -> None:
    before, too_much, after = run((os.getpid, ()), (bytes, (1 << 30,)), (os.getpid, ()))

    assert isinstance(too_much, BodyTooLarge) and "768 MiB" in str(too_much)
    assert before == after


def test_work_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "LONGEST_S", 0.3)

    slow, after = run((time.sleep, (60,)), (os.getpid, ()))

    assert isinstance(slow, UnprocessableWork) and "0.3 s" in str(slow)
    assert isinstance(after, int)
