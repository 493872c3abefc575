"""Work in a process that is killed before a given step of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


class DeadlyStep:
    """Counts calls and kills the process before the one with a given number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def count(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count()
            return real(*arguments, **named)

        return call


def exit_code(work: Callable[..., None], *arguments: Any) -> int | None:
    """Status of a copy of this process that did the work; 0 if the work ended before its deadly step."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    process.start()
    process.join(60.0)
    return process.exitcode
