"""The plan of a back-test, and its labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest.columns import MemoizedFunction
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.identities import unkeyed_agent_key
from trustwatch.ingest.record_keys import raw_id_hash, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import EPOCH
from trustwatch.models.input_checks import Flags, Ids, Ints

from ..engine.engine import EngineSettings
from ..engine.settings import AlertBudget
from ..policy.book import PolicyBook

BUDGET_FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Alert budgets that are tried, in multiples of the budget set."""


class BacktestPlan(NamedTuple):
    """One back-test."""

    paths: Sequence[Path]  # files of events (JSON lines, plain or gzip), oldest first
    models: Sequence[Path]  # directories of the models to run, one or two
    settings: EngineSettings = EngineSettings()  # of the engine, budget included
    books: Sequence[PolicyBook] = ()  # token policies to judge by, one or two
    budgets: Sequence[AlertBudget] = ()  # alert budgets to try in addition to that of the settings
    domains: Mapping[str, Sequence[str]] = {}  # the tenants' internal domains
    since: datetime | None = None  # what happened before it moves state and is not counted; None = all counts
    before: datetime | None = None  # what happened from then on is left out; None = nothing is
    labels: Path | None = None  # label file; None = none
    leave_out: Sequence[str] = ()  # classes of labels that count for nothing
    jobs: int = 1  # processes
    keep_rows: bool = False  # whether the scores of every event are kept (they are if there are labels)
    after: datetime | None = None  # what happened before it is left out, warm-up included; None = nothing is
    ask_calls: bool = True  # whether calls are evaluated, as before they are made


def default_budgets(budget: AlertBudget) -> list[AlertBudget]:
    """Return the budgets that are tried by default: multiples of one budget, up to the largest that can be set.

    >>> [budget.high for budget in default_budgets(AlertBudget(20.0, 5.0, 1.0))]
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0]
    """
    return [budget.scaled(factor) for factor in BUDGET_FACTORS]


# Labels of bad events. The evaluation alone reads them; nothing that scores ever sees one.
#
# A file of JSON lines, plain or gzip: `{"id", "session", "event_label", "session_label", "class"}`, as
# `trustwatch simulate --labels` writes them. Further members are ignored.


class EventLabel(msgspec.Struct, frozen=True, gc=False):
    """The label of one event. `class_` is `class` in the file."""

    id: str
    session: str = ""
    event_label: int = 0
    session_label: int = 0
    class_: str = msgspec.field(default="", name="class")
    tenant: str = ""
    agent_id: str = ""


class EventLabels(msgspec.Struct, frozen=True):
    """A label file. `rows` maps event ids to positions in `labels`."""

    labels: Sequence[EventLabel]
    rows: dict[str, int]


_label_decoder = msgspec.json.Decoder(EventLabel)


def read_labels(path: Path, leave_out: Collection[str] = ()) -> EventLabels:
    """Read a label file.

    Raises:
        ConfigError: a line is not a label, or two lines contradict each other about one event.
    """
    labels: list[EventLabel] = []
    rows: dict[str, int] = {}
    source = FileSource([path])
    try:
        while (taken := source.take_lines(10_000))[1]:
            base, lines = taken
            for number, line in enumerate(lines, base + 1):
                try:
                    label = _label_decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path}, record {number}: not a label: {error}") from None
                if label.class_ in leave_out:
                    continue
                if rows.setdefault(label.id, len(labels)) == len(labels):
                    labels.append(label)
                elif labels[rows[label.id]] != label:
                    raise ConfigError(f"{path}, record {number}: event `{label.id}` has another label before")
    finally:
        source.close()
    if not labels:
        raise ConfigError(f"{path}: no labels" + (" that are not left out" if leave_out else ""))
    return EventLabels(labels, rows)


def history_end(last_ms: int) -> datetime:
    """Return the first time that a model does not know; its last event was at *last_ms*."""
    return EPOCH + timedelta(milliseconds=last_ms + 1)


def first_applied(last_ms: int, since: datetime | None, after: datetime | None) -> datetime | None:
    """Return the time from which events are applied. Events that the model learned from warm nothing up."""
    if since is None:
        return after
    model_end = min(history_end(last_ms), since)
    return model_end if after is None else max(after, model_end)


def overlap_warning(version: str, last_ms: int, first: datetime | None) -> str | None:
    """Return advice if a model is judged by events that it learned from. *first* is the first event."""
    end = history_end(last_ms)
    if first is None or first >= end:
        return None
    return (
        f"model {version} learned from events up to {end:%Y-%m-%d %H:%M:%S}, some of which are looked at here: that is "
        "no test on new events, and they are applied to its state a second time; give --from "
        f"{end + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}, or a model trained with --to {first:%Y-%m-%dT%H:%M:%S}"
    )


# Splitting by agent changes nothing: whatever an event moves belongs to its agent, and the rest is a snapshot. What
# does depend on the whole stream is worked out in every share alike: which record repeats an earlier one, and up to
# when time has passed. Reading a record and finding its agent costs a tenth of applying it, and nothing has to be sent
# between processes.


class _RoutedAgent(msgspec.Struct, gc=False):
    id: str
    issuer: str | None = None


class _RoutedEvent(msgspec.Struct, gc=False):
    """The members of a record that name its agent and time."""

    time: Annotated[datetime, msgspec.Meta(tz=True)]
    agent: _RoutedAgent
    tenant: str | None = None
    source: str | None = None
    id: str | None = None


_decoder = msgspec.json.Decoder(_RoutedEvent)
_YEARS = range(1970, 9001)


class ShardDuplicateWindow(DuplicateWindow):
    """A duplicate window over the whole stream that also drops the events of other shares.

    Attributes:
        duplicates: records of this share that came before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.duplicates = 0
        self._base = 0
        self._ours: Flags = np.zeros(0, np.bool_)
        self._times: list[datetime | None] = []
        self._newest: datetime | None = None

    def expect_batch(self, base: int, ours: Flags, times: list[datetime | None]) -> None:
        """Announce the next batch: which records belong to this share, and the times of events of any share."""
        self._base, self._ours, self._times, self._newest = base, ours, times, None

    def mark(self, hashes: Ids, offsets: Ints) -> Flags:
        """Flag repeated records and those of other shares."""
        seen = super().mark(hashes, offsets)
        rows = offsets - self._base
        ours = self._ours[rows]
        self.duplicates += int((seen & ours).sum())
        fresh = [at for row in rows[~seen].tolist() if (at := self._times[row]) is not None]
        if fresh:
            newest = max(fresh)
            self._newest = newest if self._newest is None else max(self._newest, newest)
        return seen | ~ours

    def newest_event_ms(self) -> int:
        """Time of the newest event in the batch, of any share, in UTC milliseconds; 0 if there is none."""
        if self._newest is None:
            return 0
        return round(self._newest.timestamp() * 1e6) // 1000


class ShardSource(FileSource):
    """Reads a plan's files in order and tells the duplicate window which records belong to this share."""

    def __init__(
        self,
        plan: BacktestPlan,
        window: ShardDuplicateWindow,
        index: int,
        after: datetime | None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(plan.paths, progress=progress)
        self._window, self._index = window, index
        self._before, self._after = plan.before, after
        self._keep_ids = plan.labels is not None
        self._ours = MemoizedFunction(lambda *name: unkeyed_agent_key(*name) % plan.jobs == index)
        self.base = 0
        self.ids: list[str] = []
        """Event ids of the last batch, by offset from `base`; "" if a record has none."""

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:  # noqa: ARG002 (files never wait)
        """Return the next records, including those of other shares: offsets count in the whole history."""
        base, lines = self.take_lines(max_records)
        if not lines:
            return None
        ours, times, identities, ids = zip(*map(self._route, lines), strict=True)
        self._window.expect_batch(base, np.array(ours, np.bool_), list(times))
        self.base, self.ids = base, list(ids) if self._keep_ids else []
        records = zip(identities, lines, strict=True)
        return RecordBatch(0, base, [Record(RecordKind.EVENT, identity, 0, line) for identity, line in records])

    def _route(self, line: bytes) -> tuple[bool, datetime | None, int, str]:
        """Return whether a record belongs to this share, its time (None if it moves no time), identity and id."""
        try:
            routed = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # no event: the first share says so
            return self._index == 0, None, raw_id_hash(line), ""
        identity = unkeyed_event_id_hash(routed.tenant, routed.source, routed.id, line)
        at, event_id = routed.time, routed.id or ""
        if at.year not in _YEARS:
            return self._index == 0, None, identity, event_id
        if (self._before is not None and at >= self._before) or (self._after is not None and at < self._after):
            return False, None, identity, event_id
        agent = routed.agent
        return self._ours[routed.tenant or "", agent.issuer or "", agent.id], at, identity, event_id


def utc_ms(at: datetime) -> int:
    """Convert a time with an offset to UTC milliseconds."""
    return round(at.astimezone(UTC).timestamp() * 1000)
