"""Operators' settings of the pipeline, and values that only tests change."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trustwatch.ingest.settings import SettingsPart, setting


class PipelineSettings(SettingsPart, frozen=True):
    """Settings of the pipeline from events to risk. Times refer to the injected monotonic clock.

    When commits are made depends on time; what they make durable is a function of the records alone.
    """

    commit_interval_s: Annotated[
        float,
        setting(
            "longest time between commits of agents' states, s; decisions do not wait",
            gt=0,
            le=60,
        ),
    ] = 60.0
    resident_agents: Annotated[int, setting("agents whose state is in memory", ge=1)] = 200_000
    tick_interval_s: Annotated[float, setting("interval at which time advances without events, s", gt=0, le=3600)] = 5.0


class PipelineTuning(NamedTuple):
    """Values that are not settings. Times in seconds."""

    max_uncommitted: int = 20_000  # agents and dead letters that may wait for a commit before it is made early
    batch_size: int = 1_000  # events per kernel batch: larger ones are not faster, and delay answers to feedback
    commit_share: float = 0.005  # part of the pipeline's time that earlier commits may take; 0 = none are made earlier
    retry_s: float = 0.5
    poll_s: float = 0.2


DEFAULT_TUNING = PipelineTuning()
