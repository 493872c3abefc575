"""Models in shadow: the identical live path over the records of the log, without any action.

Champion and challenger run over the same records. Each begins after its own training history, and the results of both
count from one offset of each partition on. Each partition has a separate run, as in the live path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest import columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.input_checks import Ints
from trustwatch.models.trained_model import TrainedModel

from ..engine.engine import Engine, EngineSettings
from ..engine.scored_batch import ScoredBatch
from ..pipeline.processor import Processor
from ..policy.book import LivePolicy, PolicyBook
from ..records.agents import ALERTING_LEVELS, RiskLevel
from .promotion import AlertAgreement, LabelledAttackStats, ShadowComparison, ShadowModelStats

if TYPE_CHECKING:
    from ..records.feedback import Feedback

MAX_RISES = 50_000
"""Rises to medium or above that are kept to be compared with labels; older ones make way."""
DETECTION_GRACE_MS = DAY_MS
"""A labelled attack counts as detected by a rise within its window or up to so long behind it."""


class LevelRise(NamedTuple):
    """A rise of an agent to *level* from below."""

    key: int
    at_ms: int
    previous: int
    level: int


class _Attack(NamedTuple):
    """A window that a person labeled as an attack, plus the time after it in which a rise still counts."""

    key: int
    first_ms: int
    last_ms: int

    def has(self, rise: LevelRise) -> bool:
        return self.key == rise.key and self.first_ms <= rise.at_ms <= self.last_ms


class ShadowRun:
    """A run of one model in shadow."""

    def __init__(
        self,
        model: TrainedModel,
        settings: EngineSettings,
        domains: Mapping[str, Sequence[str]] | None = None,
        window: DuplicateWindow | None = None,
        identities: IdentityHasher | None = None,
    ) -> None:
        self.model = model
        encoder = ColumnEncoder(model.salt, domains, identities)
        engine = Engine(model, settings, None, identities=identities)
        self.processor = Processor(engine, encoder, window or DuplicateWindow(), LivePolicy(PolicyBook()))
        self._learned_ms = model.window_ms[1]

    def apply(self, batch: RecordBatch) -> Iterator[tuple[ScoredBatch, Ints]]:
        """Apply a batch; yield scored events with their offsets, without those that the model learned from."""
        first, records = 0, batch.records
        for at in range(len(records) + 1):  # the runs of records between those
            if at < len(records) and not self._is_learned(records[at]):
                continue
            if at > first or not records:
                part = RecordBatch(batch.partition, batch.base_offset + first, records[first:at])
                yield from self.processor.apply(part).scored
            first = at + 1

    def _is_learned(self, record: Record) -> bool:
        return record.kind == RecordKind.EVENT and read_event_time(record.payload) <= self._learned_ms


class _EventTime(msgspec.Struct):
    time: datetime


_event_time_decoder = msgspec.json.Decoder(_EventTime)


def read_event_time(payload: bytes) -> int:
    """Return an event's time in UTC milliseconds; after all histories if it has none, so that the processor reports the
    error."""
    try:
        return int(_event_time_decoder.decode(payload).time.timestamp() * 1000)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return 1 << 62


class ModelAlerts:
    """The alerts and rises of one model."""

    def __init__(self) -> None:
        self.alerts: Counter[str] = Counter()
        self.rises: list[LevelRise] = []

    def count_rises(self, scored: ScoredBatch, rows: Ints) -> set[tuple[int, int]]:
        """Count the rises among *rows*; return (agent, day) of those to medium or above."""
        before, after = scored.levels[rows, 0], scored.levels[rows, 1]
        alerted: set[tuple[int, int]] = set()
        for at in np.flatnonzero((after > before) & (after >= RiskLevel.MEDIUM)).tolist():
            row = int(rows[at])
            rise = LevelRise(
                int(scored.columns.names[row, columns.AGENT]),
                int(scored.columns.time_ms[row]),
                int(before[at]),
                int(after[at]),
            )
            self.rises.append(rise)
            for level in ALERTING_LEVELS:
                self.alerts[level.label] += rise.previous < level <= rise.level
            if rise.previous < RiskLevel.MEDIUM:
                alerted.add((rise.key, rise.at_ms // DAY_MS))
        del self.rises[: max(0, len(self.rises) - MAX_RISES)]
        return alerted


class ChampionChallengerRun:
    """Runs champion and challenger over the same events."""

    def __init__(self, from_offsets: Mapping[int, int], names: tuple[str, str]) -> None:
        self._from = dict(from_offsets)
        self._to = dict(from_offsets)
        self.events = 0
        self._names = names
        self._sides = (ModelAlerts(), ModelAlerts())
        self._open_days: dict[int, dict[int, list[bool]]] = {}  # agent -> day -> alerted by champion, by challenger
        self._agreement_counts: Counter[tuple[bool, bool]] = Counter()
        self._disagreements: list[tuple[int, int, bool]] = []  # agent, day, whether the challenger alone alerted

    def compare_batch(
        self,
        champion: Iterable[tuple[ScoredBatch, Ints]],
        challenger: Iterable[tuple[ScoredBatch, Ints]],
        partition: int = 0,
    ) -> None:
        """Compare the decisions of both models on one batch of *partition*."""
        alerted: list[set[tuple[int, int]]] = [set(), set()]
        active: set[tuple[int, int]] = set()
        for side, parts in enumerate((champion, challenger)):
            for scored, offsets in parts:
                rows = np.flatnonzero(offsets >= self._from.get(partition, 0))
                if not len(rows):
                    continue
                alerted[side] |= self._sides[side].count_rises(scored, rows)
                if side == 0:
                    self.events += len(rows)
                    self._to[partition] = max(self._to.get(partition, 0), int(offsets[rows[-1]]) + 1)
                    keys, days = scored.columns.names[rows, columns.AGENT], scored.columns.time_ms[rows] // DAY_MS
                    active |= set(zip(keys.tolist(), days.tolist(), strict=True))
        for key, day in sorted(active | alerted[0] | alerted[1], key=lambda agent_day: agent_day[1]):
            self._mark_day(key, day, (key, day) in alerted[0], (key, day) in alerted[1])

    def _mark_day(self, key: int, day: int, champion: bool, challenger: bool) -> None:
        """Note which model alerted on an agent's day. Its two newest days stay open for late events."""
        days = self._open_days.setdefault(key, {})
        if day < max(days, default=day) - 1:
            return
        alerted = days.setdefault(day, [False, False])
        alerted[0] |= champion
        alerted[1] |= challenger
        for old in [at for at in days if at < max(days) - 1]:
            by_champion, by_challenger = days.pop(old)
            self._agreement_counts[by_champion, by_challenger] += 1
            if by_champion != by_challenger:
                self._disagreements.append((key, old, by_challenger))
                del self._disagreements[: max(0, len(self._disagreements) - MAX_RISES)]

    @property
    def agent_days(self) -> int:
        """Number of agent-days so far."""
        return sum(self._agreement_counts.values()) + sum(map(len, self._open_days.values()))

    def comparison(self, feedback: Iterable[Feedback]) -> ShadowComparison:
        """Return the comparison so far, including days that have not ended."""
        attacks = [
            _Attack(judgement.agent.key, judgement.from_ms, judgement.until_ms + DETECTION_GRACE_MS)
            for judgement in feedback
            if judgement.verdict == "true_positive"
        ]
        delays = [
            [
                min((rise.at_ms - attack.first_ms for rise in side.rises if attack.has(rise)), default=None)
                for attack in attacks
            ]
            for side in self._sides
        ]  # milliseconds until the first rise; None if an attack was not noticed
        noticed = Counter((old is not None, new is not None) for old, new in zip(*delays, strict=True))
        kept, lost, won = noticed[True, True], noticed[True, False], noticed[False, True]
        labels = LabelledAttackStats(kept + lost + won, kept, lost, won)
        champion, challenger = (self._model_stats(at, attacks, delays[at]) for at in (0, 1))
        return ShadowComparison(
            champion,
            challenger,
            self.agent_days,
            self.events,
            sum(self._from.values()),
            sum(self._to.values()),
            labels,
            self._agreement(attacks),
        )

    def _model_stats(
        self, at: int, attacks: Sequence[_Attack], attack_delays: Sequence[int | None]
    ) -> ShadowModelStats:
        side = self._sides[at]
        true: Counter[str] = Counter()
        for rise in side.rises:
            if any(attack.has(rise) for attack in attacks):
                for level in ALERTING_LEVELS:
                    true[level.label] += rise.previous < level <= rise.level
        delays = sorted(delay for delay in attack_delays if delay is not None)
        days, names = max(self.agent_days, 1), [level.label for level in ALERTING_LEVELS]
        return ShadowModelStats(
            self._names[at],
            {name: side.alerts[name] for name in names},
            {name: max(0, side.alerts[name] - true[name]) for name in names},
            {name: round(1000.0 * side.alerts[name] / days, 3) for name in names},
            len(delays),
            delays[len(delays) // 2] / 1000.0 if delays else None,
        )

    def _agreement(self, attacks: Sequence[_Attack]) -> AlertAgreement:
        counts = Counter(self._agreement_counts)
        apart = list(self._disagreements)
        for key, days in self._open_days.items():
            for day, (champion, challenger) in days.items():
                counts[champion, challenger] += 1
                if champion != challenger:
                    apart.append((key, day, challenger))
        for key, day, which in apart:
            if any(
                key == attack.key and attack.first_ms // DAY_MS <= day <= attack.last_ms // DAY_MS for attack in attacks
            ):
                counts[not which, which] -= 1
        return AlertAgreement(counts[True, True], counts[False, False], counts[True, False], counts[False, True])
