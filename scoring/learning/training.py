"""Training: a history as columns without what must not be learned, and the model made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.argument_columns import join_arguments
from trustwatch.ingest.columns import ColumnEncoder, EventColumns, LazyEvents
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.input_checks import Flags
from trustwatch.models.model_directory import ModelManifest, read_manifest
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import TrainingProgress, session_ids
from trustwatch.models.trained_model import TrainedModel

from ..engine.engine import EngineSettings
from ..records.agents import RiskLevel
from ..records.decisions import Decision
from .budget_check import BudgetReport, ChallengeExpectation, check_budget, expect_challenges
from .walkforward import train_walk_forward

if TYPE_CHECKING:
    from ..records.feedback import Feedback

ENCODE_CHUNK = 5_000
"""Events that are decoded before their columns are made."""
LEAD_UP_MS = HOUR_MS
"""Time before a decision that is left out with it: evidence gathers over minutes, a decision names the last event."""
MAX_SUSPICION_MS = DAY_MS
"""An agent that nothing brought down again is left out for so long."""

MAX_ARGUMENTS_PER_EVENT = 8
"""Arguments that are kept of a history, for each event that may be kept: senders choose how many an event has."""

AgentWindows = Mapping[int, Sequence[tuple[int, int]]]
"""Agent key -> (from, until) in event time, UTC milliseconds, both included."""


class ExcludedEvents(NamedTuple):
    """Numbers of events that were not learned, by reason."""

    labelled: int  # of windows that a person called an attack
    suspicious: int  # of agents at level high or critical, unless a person called that false
    malformed: int


class KnownPeerGroups:
    """The peer groups of a history's agents, tracked as `Engine` does: only an attested event with a type changes one.

    An event without a type (of an authorization server, a gateway) is judged live among the peers that its agent is
    known to have, so it is learned among them.
    """

    def __init__(self) -> None:
        self._groups: dict[int, int] = {}

    def settle(self, columns: EventColumns) -> EventColumns:
        """Set the peer groups of events without a type; return *columns*. Call it with the events of one history in
        order."""
        for start in range(0, len(columns), ENCODE_CHUNK):
            names = columns.names[start : start + ENCODE_CHUNK, [event_columns.AGENT, event_columns.GROUP]]
            for row, (agent, group) in enumerate(names.tolist(), start):
                known = self._groups.setdefault(agent, group)
                if known == group:
                    continue
                about = columns.events[row].agent
                if not about.type:
                    columns.names[row, event_columns.GROUP] = known
                elif not about.self_asserted:
                    self._groups[agent] = group
        return columns


class TrainingHistory:
    """The newest events of a history as columns."""

    def __init__(self, encoder: ColumnEncoder, most: int) -> None:
        self._encoder = encoder
        self._groups = KnownPeerGroups()
        self._max_events = most
        self._undecoded: list[NativeEvent] = []
        self._chunks: deque[EventColumns] = deque()
        self._held_events = 0
        self._held_arguments = 0
        self.malformed = 0

    def add(self, payload: bytes) -> None:
        """Add one event as it was logged."""
        try:
            event = decode_event(payload)
        except MalformedEvent:
            self.malformed += 1
            return
        self._undecoded.append(event)
        if len(self._undecoded) >= ENCODE_CHUNK:
            self._encode()

    def _encode(self) -> None:
        if not self._undecoded:
            return
        columns = self._groups.settle(self._encoder.encode(self._undecoded))
        self._undecoded = []
        self._chunks.append(
            EventColumns(LazyEvents([b""] * len(columns), {}), *columns[1:])
        )  # events are 10 times as large
        self._held_events += len(columns)
        self._held_arguments += _argument_count(self._chunks[-1])
        most_arguments = MAX_ARGUMENTS_PER_EVENT * max(self._max_events, ENCODE_CHUNK)
        while len(self._chunks) > 1 and (
            self._held_events - len(self._chunks[0]) >= self._max_events or self._held_arguments > most_arguments
        ):
            oldest = self._chunks.popleft()
            self._held_events -= len(oldest)
            self._held_arguments -= _argument_count(oldest)

    def columns(self) -> EventColumns | None:
        """Return the columns of all events in the order in which they were added, or None."""
        self._encode()
        if not self._chunks:
            return None
        names, numbers, codes, time_ms = (
            np.concatenate([getattr(chunk, name) for chunk in self._chunks])[-self._max_events :]
            for name in ("names", "numbers", "codes", "time_ms")
        )
        arguments = join_arguments([(len(chunk), chunk.arguments) for chunk in self._chunks])
        if arguments is not None:
            arguments = arguments.take(np.arange(len(arguments.start) - 1)[-self._max_events :])
        return EventColumns(LazyEvents([b""] * len(names), {}), names, numbers, codes, time_ms, arguments)


def _argument_count(columns: EventColumns) -> int:
    return 0 if columns.arguments is None else len(columns.arguments.values)


def exclude_windows(
    columns: EventColumns, labelled: AgentWindows, suspicious: AgentWindows, malformed: int
) -> tuple[EventColumns, ExcludedEvents]:
    """Return *columns* without the events of the windows."""
    attacked, suspected = _in_windows(columns, labelled), _in_windows(columns, suspicious)
    kept = ~(attacked | suspected)
    counts = ExcludedEvents(int(attacked.sum()), int((suspected & ~attacked).sum()), malformed)
    return (columns if kept.all() else columns.take(np.flatnonzero(kept))), counts


def _in_windows(columns: EventColumns, windows: AgentWindows) -> Flags:
    within = np.zeros(len(columns), np.bool_)
    keys = np.array(sorted(windows), np.uint64)
    rows = np.flatnonzero(np.isin(columns.names[:, event_columns.AGENT], keys))
    for key in np.unique(columns.names[rows, event_columns.AGENT]).tolist():
        mine = rows[columns.names[rows, event_columns.AGENT] == np.uint64(key)]
        at = columns.time_ms[mine]
        for first, last in windows[key]:
            within[mine[(at >= first) & (at <= last)]] = True
    return within


def labelled_windows(feedback: Iterable[Feedback], identities: IdentityHasher) -> AgentWindows:
    """Return the windows that people labeled as attacks, by agent under the key of *identities*."""
    attacks: dict[int, list[tuple[int, int]]] = {}
    for judgement in feedback:
        if judgement.verdict == "true_positive":
            attacks.setdefault(identities.agent_key(*judgement.agent.identity), []).append(
                (judgement.from_ms, judgement.until_ms)
            )
    return attacks


def suspicious_windows(
    decisions: Iterable[Decision], false_positives: frozenset[str], identities: IdentityHasher
) -> AgentWindows:
    """Return, by agent, the windows from an hour before it reached high until it was below again."""
    suspicious: dict[int, list[tuple[int, int]]] = {}
    ends: dict[int, int] = {}
    for decision in decisions:
        key, at_ms = identities.agent_key(*decision.agent.identity), decision.event_time_ms
        if decision.level >= RiskLevel.HIGH and decision.decision_id not in false_positives:
            until = min(ends.get(key, at_ms + MAX_SUSPICION_MS), at_ms + MAX_SUSPICION_MS)
            suspicious.setdefault(key, []).append((at_ms - LEAD_UP_MS, until))
        ends[key] = at_ms
    return suspicious


class TrainedVersion(NamedTuple):
    """A trained version on disk."""

    model: TrainedModel  # what was learned
    manifest: ModelManifest  # of the files
    digest: str  # of the manifest
    # alerts that its thresholds allow, and those that they would have raised on its history
    budget_report: BudgetReport
    # calls that are to be expected to wait; None = the history is too short to say
    expected_challenges: ChallengeExpectation | None


def train_and_save(
    directory: Path,
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings,
    engine: EngineSettings,
    now_ms: int,
    progress: TrainingProgress = lambda *_: None,
) -> TrainedVersion:
    """Train on *columns*, check the alert budget, and save to *directory*, all or nothing.

    Raises:
        NotEnoughHistory: fewer events than a detector can be fitted on.
    """
    sensitive = engine.risk.sensitive_types
    trained = train_walk_forward(columns, salt, version, settings, progress, sensitive)
    model = trained.model
    report = check_budget(
        model, trained.validation_events, trained.p_values, engine.risk, trained.habits, trained.signals
    )
    sessions = len(set(session_ids(columns).tolist()))
    manifest = save_trained_model(directory, model, settings, sessions, now_ms)
    expected = expect_challenges(trained.calls, engine.risk.challenge_budget)
    return TrainedVersion(model, manifest, read_manifest(directory)[1], report, expected)
