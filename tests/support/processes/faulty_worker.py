"""A worker that something happens to at a given commit: arguments `FAULT:N --settings … --socket …`.

The fault strikes at the N-th commit of the process, at a place that no timer hits:

* `kill-before-commit`: kill -9 while nothing of the commit is in the store.
* `kill-after-commit`: kill -9 when the store has it and no topic does.
* `kill-while-publishing`: kill -9 when records of it are queued and not acknowledged.
* `stop-before-commit`: SIGSTOP, and when it goes on, it commits as if nothing had happened.
* `stop-after-commit`: SIGSTOP, and when it goes on, it tells the topics what others may have overtaken.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from trustwatch.api.child_process import run_child
from trustwatch.api.service import pipeline_worker

WHAT, _, NUMBER = sys.argv.pop(1).partition(":")


def struck(real: Callable[..., Any], strike: Callable[[], None], *, after: bool = False) -> Callable[..., Any]:
    """*real*, and at its N-th call *strike*, before it or after it."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(NUMBER) and not after:
            strike()
        answer = real(*arguments, **named)
        if calls == int(NUMBER) and after:
            strike()
        return answer

    return call


class FaultyWorker(pipeline_worker.GroupPipelineWorker):
    """The product's worker with the fault in it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        number = signal.SIGKILL if WHAT.startswith("kill") else signal.SIGSTOP
        when = WHAT.partition("-")[2]
        if when in ("before-commit", "after-commit"):
            self.store.commit_all = struck(self.store.commit_all, lambda: strike(number), after=when == "after-commit")  # type: ignore[method-assign]
        elif when == "while-publishing":
            self.publisher.publish_commit = struck(self.publisher.publish_commit, lambda: strike(number), after=True)  # type: ignore[method-assign]
        else:
            raise SystemExit(f"no such fault: {WHAT}")


def strike(number: int) -> None:
    os.kill(os.getpid(), number)


pipeline_worker.GroupPipelineWorker = FaultyWorker  # type: ignore[misc]

if __name__ == "__main__":
    raise SystemExit(run_child(pipeline_worker.run_pipeline_worker))
