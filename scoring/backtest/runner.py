"""Runs a back-test: shares of the agents in processes of their own, added up."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from trustwatch.ingest.file_source import FileSource
from trustwatch.models.model_persistence import load_trained_model

from ..pipeline.replay import HistoryReplay
from .agent_shards import ShardDuplicateWindow, ShardSource
from .counts import BacktestCounter, BacktestCounts, merge_counts
from .plan import BacktestPlan, first_applied, read_labels

MAX_SHOWN_PROBLEMS = 5
_POLL_S = 0.2

ProgressCallback = Callable[[int], None]
MalformedRecord = tuple[int, str, str]
ShardTask = tuple[int, int]

_bytes_read: Any = None
"""Bytes that each task has read, shared between a worker process and its parent."""


def run_backtest(
    plan: BacktestPlan, progress: ProgressCallback = lambda _: None
) -> tuple[list[BacktestCounts], list[MalformedRecord]]:
    """Run a plan.

    Raises:
        UnreadableFile, ConfigError: events, labels or a model can not be read.
    """
    tasks = [(model, index) for model in range(len(plan.models)) for index in range(plan.jobs)]
    done = (
        _run_in_process(plan, tasks, progress)
        if plan.jobs == 1 and len(tasks) == 1
        else _run_in_pool(plan, tasks, progress)
    )
    counts = [
        merge_counts(part for (model, _), (part, _) in zip(tasks, done, strict=True) if model == model_number)
        for model_number in range(len(plan.models))
    ]
    problems = sorted({problem for _, shard_problems in done[: plan.jobs] for problem in shard_problems})
    return counts, problems[:MAX_SHOWN_PROBLEMS]


def total_bytes(plan: BacktestPlan) -> int:
    """Bytes that all tasks together read."""
    return FileSource(plan.paths).total_bytes * plan.jobs * len(plan.models)


def _run_in_process(
    plan: BacktestPlan, tasks: Sequence[ShardTask], progress: ProgressCallback
) -> list[tuple[BacktestCounts, list[MalformedRecord]]]:
    return [run_shard(plan, plan.models[model], index, progress) for model, index in tasks]


def _run_in_pool(
    plan: BacktestPlan, tasks: Sequence[ShardTask], progress: ProgressCallback
) -> list[tuple[BacktestCounts, list[MalformedRecord]]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    read = context.Array("q", len(tasks), lock=False)
    with ProcessPoolExecutor(plan.jobs, context, _init_worker, (read,)) as pool:
        futures = [pool.submit(_run_task, plan, at, model, index) for at, (model, index) in enumerate(tasks)]
        try:
            _wait_for_all(futures, lambda: progress(sum(read)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _wait_for_all(futures: Sequence[Future[Any]], tell: Callable[[], None]) -> None:
    """Wait for all, or for the first that fails."""
    left: set[Future[Any]] = set(futures)
    while left:
        ended, left = wait(left, _POLL_S, FIRST_EXCEPTION)
        tell()
        for future in ended:
            future.result()


def _init_worker(read: Any) -> None:
    global _bytes_read  # noqa: PLW0603 (the only way in that a pool offers)
    _bytes_read = read


def _run_task(plan: BacktestPlan, at: int, model: int, index: int) -> tuple[BacktestCounts, list[MalformedRecord]]:
    def tell(done: int) -> None:
        _bytes_read[at] = done

    return run_shard(plan, plan.models[model], index, tell)


def run_shard(
    plan: BacktestPlan, model: Path, index: int, progress: ProgressCallback
) -> tuple[BacktestCounts, list[MalformedRecord]]:
    """Replay one share under one model."""
    trained = load_trained_model(model)
    labels = None if plan.labels is None else read_labels(plan.labels, plan.leave_out)
    window = ShardDuplicateWindow()
    source = ShardSource(
        FileSource(plan.paths, progress=progress),
        window,
        index,
        plan.jobs,
        plan.before,
        keep_ids=labels is not None,
        after=first_applied(trained.window_ms[1], plan.since, plan.after),
    )
    replay = HistoryReplay(trained, plan.settings, plan.domains, window, window.newest_event_ms)
    tally = BacktestCounter(plan, trained, source, labels)
    problems: list[MalformedRecord] = []

    def malformed(*problem: Any) -> None:
        if len(problems) < MAX_SHOWN_PROBLEMS:
            problems.append(problem)

    try:
        for applied in replay.applied_batches(source, malformed):
            tally.count_batch(applied, replay.engine.agents, replay.ticked_ms)
    finally:
        source.close()
    summary = replay.summary()
    records = {name: getattr(summary, name) for name in ("events", "malformed", "mended", "late")}
    return tally.counts(**records, duplicates=window.duplicates), problems
