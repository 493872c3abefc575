"""Runs a back-test: shares of the agents in processes of their own, added up."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from ...ingest.files import FileSource
from ...models.persist import load
from ..replay import Replay
from .labels import read_labels
from .plan import Plan
from .share import ShareSource, ShareWindow
from .tally import Counts, Tally, added

SHOWN_PROBLEMS = 5
_POLL_S = 0.2

Progress = Callable[[int], None]
Problem = tuple[int, str, str]
Task = tuple[int, int]

_done: Any = None
"""In a worker process: bytes that each task has read, shared with the parent."""


def backtest(plan: Plan, progress: Progress = lambda _: None) -> tuple[list[Counts], list[Problem]]:
    """Run a plan.

    Args:
        plan: see there.
        progress: called now and then with the bytes read so far, of `total_bytes(plan)`.

    Returns:
        Counts by model of the plan, and the first few records that are no events: offset, path, reason.

    Raises:
        UnreadableFile, ConfigError: events, labels or a model can not be read.
    """
    tasks = [(model, index) for model in range(len(plan.models)) for index in range(plan.jobs)]
    done = _alone(plan, tasks, progress) if plan.jobs == 1 and len(tasks) == 1 else _together(plan, tasks, progress)
    counts = [
        added(part for (model, _), (part, _) in zip(tasks, done, strict=True) if model == wanted)
        for wanted in range(len(plan.models))
    ]
    problems = sorted({problem for _, told in done[: plan.jobs] for problem in told})
    return counts, problems[:SHOWN_PROBLEMS]


def total_bytes(plan: Plan) -> int:
    """Bytes that all tasks together read."""
    return FileSource(plan.paths).total_bytes * plan.jobs * len(plan.models)


def _alone(plan: Plan, tasks: Sequence[Task], progress: Progress) -> list[tuple[Counts, list[Problem]]]:
    return [run_share(plan, plan.models[model], index, progress) for model, index in tasks]


def _together(plan: Plan, tasks: Sequence[Task], progress: Progress) -> list[tuple[Counts, list[Problem]]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    read = context.Array("q", len(tasks), lock=False)
    with ProcessPoolExecutor(plan.jobs, context, _begin, (read,)) as pool:
        futures = [pool.submit(_work, plan, at, model, index) for at, (model, index) in enumerate(tasks)]
        try:
            _watch(futures, lambda: progress(sum(read)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _watch(futures: Sequence[Future[Any]], tell: Callable[[], None]) -> None:
    """Wait for all, or for the first that fails."""
    left: set[Future[Any]] = set(futures)
    while left:
        ended, left = wait(left, _POLL_S, FIRST_EXCEPTION)
        tell()
        for future in ended:
            future.result()


def _begin(read: Any) -> None:
    global _done  # noqa: PLW0603 (the only way in that a pool offers)
    _done = read


def _work(plan: Plan, at: int, model: int, index: int) -> tuple[Counts, list[Problem]]:
    def tell(done: int) -> None:
        _done[at] = done

    return run_share(plan, plan.models[model], index, tell)


def run_share(plan: Plan, model: Path, index: int, progress: Progress) -> tuple[Counts, list[Problem]]:
    """Replay one share under one model."""
    trained = load(model)
    labels = None if plan.labels is None else read_labels(plan.labels, plan.leave_out)
    window = ShareWindow()
    source = ShareSource(
        FileSource(plan.paths, progress=progress),
        window,
        index,
        plan.jobs,
        plan.before,
        keep_ids=labels is not None,
        after=plan.after,
    )
    replay = Replay(trained, plan.settings, plan.domains, window, window.newest)
    tally = Tally(plan, trained, source, labels)
    problems: list[Problem] = []

    def malformed(*problem: Any) -> None:
        if len(problems) < SHOWN_PROBLEMS:
            problems.append(problem)

    try:
        for applied in replay.applied(source, malformed):
            tally.see(applied, replay.engine.agents, replay.ticked_ms)
    finally:
        source.close()
    told = replay.summary()
    return tally.counts(told.events, window.repeated, told.malformed, told.mended, told.late), problems
