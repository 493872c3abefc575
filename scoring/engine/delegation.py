"""Delegation edges between agents: picked out of batches and written with the state that they belong to.

A pair is written when it is new, and once an hour of event time while it continues, so most batches write none. The row
that results is a function of the pair's events alone (`records.agents.merge_edges`): an event is left out only if one
that was written outdoes it. What a process remembers therefore saves writes and changes no row, and a restart that
forgets it writes what is stored already. Only an authenticated event makes an edge: an agent that merely claims to act
for another must not drag it into its blast radius. An edge moves its target (the agent that was delegated to or
called), so it needs a source that is authorized for that agent; any ancestor may be named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.timestamps import HOUR_MS

from ..records.agents import EDGE_RISK_STEPS, AgentEdge, EdgeKind, merge_edges, risk_rank

MAX_REMEMBERED_PAIRS = 500_000
"""Pairs whose last hour is remembered; when there are more, all are forgotten and written once more than needed."""

MIN_WRITTEN_RISK = 0.3
"""Risk score from which a pair's risk is written when it rises by a step; a lower one is written as 0."""

Rows = npt.NDArray[np.int64]

MAX_CHAIN_ACTORS = 8
"""Actors of a chain that make edges; a longer one is a sign in itself (feature `chain_depth`)."""

_KINDS: tuple[tuple[int, int, EdgeKind], ...] = (
    (event_columns.CHAIN, 0x9E3779B97F4A7C15, "delegated"),
    (event_columns.PEER, 0xC2B2AE3D27D4EB4F, "called"),
    (event_columns.PRINCIPAL, 0x165667B19E3779F9, "acts_for"),
)


_COLUMNS = np.array([column for column, _, _ in _KINDS], np.int64)
_FACTORS = np.array([factor for _, factor, _ in _KINDS], np.uint64)
_OF_UNAUTHORIZED = np.uint64(0xD6E8FEB86659FD93)
_LATELY_SEEN = 1 << 16
"""Pairs that a kernel recognizes without Python, a power of two: most batches hold nothing new or risky."""


@allocation_free
def _find_candidates(
    names: npt.NDArray[np.uint64],
    codes: npt.NDArray[np.int8],
    time_ms: npt.NDArray[np.int64],
    risks: npt.NDArray[np.float64],
    columns: npt.NDArray[np.int64],
    factors: npt.NDArray[np.uint64],
    seen_marks: npt.NDArray[np.uint64],
    seen_times: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.bool_],
) -> bool:
    """Flag rows with a pair that is risky, or that was not written in its hour at that time or before.

    Args:
        columns, factors: of each of the kinds, see `_KINDS`.
        seen_marks, seen_times: pairs seen lately, each in the place that mark and hour say, and when; -1 = none.
        candidates: bool (kinds, n), written.

    Returns:
        True if there is any.
    """
    any_found = False
    for row in range(len(names)):
        authenticated = codes[row, event_columns.SELF_ASSERTED] == 0 and codes[row, event_columns.OWN_DENIAL] == 0
        hour = time_ms[row] // HOUR_MS
        for kind in range(len(columns)):
            candidates[kind, row] = False
            name = names[row, columns[kind]]
            if not authenticated or name == 0:
                continue
            unauthorized = names[row, event_columns.UNAUTHORIZED] * _OF_UNAUTHORIZED
            mark = names[row, event_columns.AGENT] * factors[kind] ^ name ^ unauthorized
            place = (mark + np.uint64(hour)) & np.uint64(len(seen_marks) - 1)
            seen = seen_times[place]
            if seen_marks[place] != mark or seen // HOUR_MS != hour or time_ms[row] < seen:
                seen_marks[place], seen_times[place] = mark, time_ms[row]
                candidates[kind, row] = True
            if risks[row] >= MIN_WRITTEN_RISK:
                candidates[kind, row] = True
            any_found |= candidates[kind, row]
    return any_found


class EdgeCollector:
    """Collects delegation edges from the batches of one partition."""

    def __init__(self) -> None:
        self._last_ms: dict[int, int] = {}
        """Time of the first event in the last hour of a pair, by its mark."""
        self._seen_marks = np.zeros(_LATELY_SEEN, np.uint64)
        self._seen_times = np.full(_LATELY_SEEN, -1, np.int64)
        self._risk_ranks: dict[int, tuple[int, float, int]] = {}
        self._pending: dict[tuple[str, str, str, str, str], AgentEdge] = {}
        self.has_new_delegation = False
        """True if a delegation waits to be written that was not written before: containment goes down by it."""

    def collect(self, columns: EventColumns, risks: npt.NDArray[np.float64]) -> None:
        """Collect the new pairs of a batch.

        Args:
            risks: shape (n,): risk score of each event's agent after it, in [0, 1].
        """
        candidates = np.empty((len(_KINDS), len(columns)), np.bool_)
        seen = self._seen_marks, self._seen_times
        if not _find_candidates(
            columns.names,
            columns.codes,
            columns.time_ms,
            np.ascontiguousarray(risks),
            _COLUMNS,
            _FACTORS,
            *seen,
            candidates,
        ):
            return
        for flags, (column, factor, kind) in zip(candidates, _KINDS, strict=True):
            rows = np.flatnonzero(flags)
            if len(rows):
                names = columns.names[rows]
                marks = names[:, event_columns.AGENT] * np.uint64(factor) ^ names[:, column]
                marks ^= names[:, event_columns.UNAUTHORIZED] * _OF_UNAUTHORIZED
                self._collect_new(columns, risks, rows, marks, kind)
                self._collect_risky(columns, risks, rows, marks, kind)

    def drain(self) -> list[AgentEdge]:
        """Return the edges to write, each once, and forget them."""
        taken, self._pending = list(self._pending.values()), {}
        self.has_new_delegation = False
        return taken

    def clear(self) -> None:
        """Forget all pairs. Some may have been erased from the store, and are written again if they recur."""
        self._last_ms.clear()
        self._seen_times.fill(-1)
        self._risk_ranks.clear()

    def _collect_new(self, columns: EventColumns, risks: Any, rows: Rows, marks: Any, kind: EdgeKind) -> None:
        """Collect pairs that are new, or not written in their hour at that time or before."""
        times = columns.time_ms[rows]
        by_time = np.argsort(times, kind="stable")
        in_hour = (marks ^ (times // HOUR_MS).astype(np.uint64))[by_time]
        first = np.sort(by_time[np.unique(in_hour, return_index=True)[1]])  # in the order of events
        for at, mark, at_ms in zip(first.tolist(), marks[first].tolist(), times[first].tolist(), strict=True):
            written_ms = self._last_ms.get(mark, -1)
            hours_later = at_ms // HOUR_MS - written_ms // HOUR_MS
            if hours_later == 0 and at_ms >= written_ms:
                continue
            self.has_new_delegation |= kind == "delegated" and written_ms < 0
            if len(self._last_ms) >= MAX_REMEMBERED_PAIRS:
                self._last_ms.clear()
                self._seen_times.fill(-1)
            if hours_later >= 0:
                self._last_ms[mark] = at_ms
            row = int(rows[at])
            self._add(columns.events[row], kind, at_ms, _written_risk(float(risks[row])))

    def _collect_risky(self, columns: EventColumns, risks: Any, rows: Rows, marks: Any, kind: EdgeKind) -> None:
        """Collect pairs whose risk has risen since it was written. Few agents are at risk, so there are few."""
        risky = risks[rows] >= MIN_WRITTEN_RISK
        for row, mark in zip(rows[risky].tolist(), marks[risky].tolist(), strict=True):
            risk, at_ms = _written_risk(float(risks[row])), int(columns.time_ms[row])
            rank = risk_rank(risk, at_ms)
            if mark in self._risk_ranks and rank <= self._risk_ranks[mark]:
                continue
            if len(self._risk_ranks) >= MAX_REMEMBERED_PAIRS:
                self._risk_ranks.clear()
            self._risk_ranks[mark] = rank
            self._add(columns.events[row], kind, at_ms, risk)

    def _add(self, event: NativeEvent, kind: EdgeKind, at_ms: int, risk: float) -> None:
        tenant, issuer = event.tenant or "", event.agent.issuer or ""
        for source, target in _edge_pairs(event, kind):
            if source == target or not source or not target:
                continue
            named = (tenant, issuer, kind, source, target)
            edge = AgentEdge(*named, at_ms, at_ms, risk, at_ms)
            waiting = self._pending.get(named)
            self._pending[named] = edge if waiting is None else merge_edges(waiting, edge)


def _written_risk(risk: float) -> float:
    """Round a risk to whole steps, so that a rising risk does not write a row for each event."""
    return int(risk * EDGE_RISK_STEPS) / EDGE_RISK_STEPS if risk >= MIN_WRITTEN_RISK else 0.0


def _edge_pairs(event: NativeEvent, kind: EdgeKind) -> Iterator[tuple[str, str]]:
    """Return the (source, target) pairs of the edges in an event."""
    if kind == "acts_for":
        yield event.agent.id, (event.principal.id if event.principal else None) or ""
        return
    unauthorized = event.unauthorized or ()
    if kind == "called":
        if event.peer not in unauthorized:
            yield event.agent.id, event.peer or ""
        return
    chain = list(event.delegation or ())[:MAX_CHAIN_ACTORS]
    if chain and chain[0] == event.agent.id:  # the current actor comes first; some write only those before it
        del chain[0]
    later = event.agent.id
    for earlier in chain:
        yield earlier, later
        if earlier not in unauthorized:  # otherwise its predecessor delegated to the later one through it
            later = earlier
