"""The simulation itself: all actors merged into one stream in order of event time, a minute of it in memory at once."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.timestamps import MINUTE_MS

from .actors import AgentActor, LifecycleActor
from .attack_planner import AttackActor, plan_attacks
from .labelled_events import ActorStream, DraftEvent, SimulatedEvent, SimulatedLabel
from .population import Enterprise
from .random_streams import RandomStream, mix64
from .settings import SimulationSettings, epoch_milliseconds

_MERGE_SLICE_MS = MINUTE_MS
"""Span of event time that is generated, sorted and returned at once."""


class SimulationActor(Protocol):
    """Producer of rows; rows of one `advance` are never older than `next_ms` was before it."""

    @property
    def next_ms(self) -> int:
        """Moment of its next row, milliseconds since 1970; the end of the simulation when it is done."""

    def advance(self) -> list[DraftEvent]:
        """Produce rows and move `next_ms`."""


def simulate(settings: SimulationSettings) -> Iterator[SimulatedEvent]:
    """Events of the whole simulation in order of event time, as a stream.

    Equal settings give identical bytes. Memory holds the agents and about a minute of events, whatever the duration.

    Raises:
        ConfigError: before the first event: an attack names an unknown scenario or agent, or no agent can play it.
    """
    enterprise = Enterprise(settings)
    salt = _salt(settings)
    attacks = plan_attacks(enterprise)
    actors: list[SimulationActor] = [
        AgentActor(enterprise, agent, ActorStream(agent.index, RandomStream(settings.seed, 1, agent.index), salt))
        for agent in enterprise.agents
    ]
    number = len(actors)
    actors.append(LifecycleActor(enterprise, ActorStream(number, RandomStream(settings.seed, 3), salt)))
    for turn, attack in enumerate(attacks):
        stream = ActorStream(number + 1 + turn, RandomStream(settings.seed, 2, turn), salt, attack.scenario.name)
        actors.append(AttackActor(enterprise, attack, stream))
    return _complete_events(_merge_actors(actors, settings.start_ms, settings.end_ms), salt)


def _salt(settings: SimulationSettings) -> int:
    """Salt of event ids, so that those of two simulations differ, even if only the start does."""
    key = np.random.SeedSequence((settings.seed, abs(settings.start_ms), settings.end_ms - settings.start_ms))
    low, high = key.generate_state(2)
    return int(high) << 32 | int(low)


def _merge_actors(actors: list[SimulationActor], start_ms: int, end_ms: int) -> Iterator[list[DraftEvent]]:
    """Rows in order, in lists; rows at or after the end are dropped."""
    heap = [(actor.next_ms, number, actor) for number, actor in enumerate(actors) if actor.next_ms < end_ms]
    heapq.heapify(heap)
    pending: list[DraftEvent] = []
    edge = start_ms
    while edge < end_ms:
        edge = min(edge + _MERGE_SLICE_MS, end_ms)
        while heap and heap[0][0] < edge:
            _, number, actor = heap[0]
            pending += actor.advance()
            if actor.next_ms < end_ms:
                heapq.heapreplace(heap, (actor.next_ms, number, actor))
            else:
                heapq.heappop(heap)
        pending.sort()
        cut = bisect_left(pending, edge, key=_draft_time_ms)
        yield pending[:cut]
        del pending[:cut]


def _draft_time_ms(row: DraftEvent) -> int:
    return row.at_ms


def _complete_events(slices: Iterator[list[DraftEvent]], salt: int) -> Iterator[SimulatedEvent]:
    """Give every row its id and its time."""
    second, stamp = -1, ""
    for rows in slices:
        for at_ms, key, text, truth, event_label in rows:
            if at_ms // 1000 != second:
                second = at_ms // 1000
                stamp = format_second(second)
            name = f"evt-{mix64(key ^ salt):016x}"
            event = f'{{"id":"{name}","time":"{stamp}{at_ms % 1000:03d}Z"{text}'.encode()
            yield SimulatedEvent(
                event, SimulatedLabel(name, truth[0], truth[1], truth[2], event_label, truth[3], truth[4]), at_ms
            )


def format_second(second: int) -> str:
    """RFC 3339 in UTC up to and with the decimal point; milliseconds and `Z` follow."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


# Event time is compressed, so that a simulated day can be played in a real minute.


_TIME_MEMBER = b'"time":"'
_TIME_LENGTH = len("2026-01-01T00:00:00.000Z")


def retime(
    events: Iterable[SimulatedEvent], *, factor: float, start: datetime, origin: datetime | None = None
) -> Iterator[SimulatedEvent]:
    """Divide the time since `origin` by `factor` and count it from `start`. Order, ids and labels stay as they are.

    Only `time` changes: `duration_ms` and `token_lifetime_s` keep their values, and hour-of-week loses its meaning.
    Counts per minute grow by the factor, so a model for compressed events must be trained on events compressed by the
    **same** factor, with the same `origin`; see reference/simulator.md.

    Args:
        factor: more than 0; 1440 plays a day in a minute.
        start: moment that `origin` becomes, with a UTC offset.
        origin: moment of the uncompressed stream; None takes the first event's.

    Raises:
        ConfigError: a factor that is not more than zero, or a moment without a UTC offset.
    """
    if not factor > 0:
        raise ConfigError(f"factor must be more than 0, not {factor!r}")
    if start.tzinfo is None or (origin is not None and origin.tzinfo is None):
        raise ConfigError("start and origin need a UTC offset")
    return _retime_events(
        events, factor, epoch_milliseconds(start), None if origin is None else epoch_milliseconds(origin)
    )


def _retime_events(
    events: Iterable[SimulatedEvent], factor: float, start_ms: int, origin_ms: int | None
) -> Iterator[SimulatedEvent]:
    for event, label, at_ms in events:
        if origin_ms is None:
            origin_ms = at_ms
        moved = start_ms + math.floor((at_ms - origin_ms) / factor)
        at = event.index(_TIME_MEMBER) + len(_TIME_MEMBER)
        stamp = f"{format_second(moved // 1000)}{moved % 1000:03d}Z".encode()
        yield SimulatedEvent(event[:at] + stamp + event[at + _TIME_LENGTH :], label, moved)
