"""The plan of a back-test, and its labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.timestamps import EPOCH

from ..engine.engine import EngineSettings
from ..engine.settings import AlertBudget
from ..policy.book import PolicyBook

BUDGET_FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Alert budgets that are tried, in multiples of the budget set."""


class BacktestPlan(NamedTuple):
    """One back-test.

    Attributes:
        paths: files of events (JSON lines, plain or gzip), oldest first.
        models: directories of the models to run, one or two.
        settings: of the engine, budget included.
        books: token policies to judge by, one or two.
        budgets: alert budgets to try beside that of the settings.
        domains: the tenants' internal domains.
        since: what happened before it moves state and is not counted; None = all counts.
        before: what happened from then on is left out; None = nothing is.
        labels: label file; None = there is none.
        leave_out: classes of labels that count for nothing.
        jobs: processes.
        after: what happened before it is left out, warm-up included; None = nothing is.
        keep_rows: whether the scores of every event are kept (they are where there are labels).
        ask_calls: whether calls are asked about, as before they are made.
    """

    paths: Sequence[Path]
    models: Sequence[Path]
    settings: EngineSettings = EngineSettings()
    books: Sequence[PolicyBook] = ()
    budgets: Sequence[AlertBudget] = ()
    domains: Mapping[str, Sequence[str]] = {}
    since: datetime | None = None
    before: datetime | None = None
    labels: Path | None = None
    leave_out: Sequence[str] = ()
    jobs: int = 1
    keep_rows: bool = False
    after: datetime | None = None
    ask_calls: bool = True


def default_budgets(budget: AlertBudget) -> list[AlertBudget]:
    """The budgets that are tried unless others are asked for: multiples of one, none above what can be set.

    >>> [budget.high for budget in default_budgets(AlertBudget(20.0, 5.0, 1.0))]
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0]
    """
    return [budget.scaled(factor) for factor in BUDGET_FACTORS]


# Labels of bad events. The evaluation alone reads them; nothing that scores ever sees one.
#
# A file of JSON lines, plain or gzip: `{"id", "session", "event_label", "session_label", "class"}`, as
# `trustwatch simulate --labels` writes them. Further members are ignored.


class EventLabel(msgspec.Struct, frozen=True, gc=False):
    """One event. `class_` is `class` in the file."""

    id: str
    session: str = ""
    event_label: int = 0
    session_label: int = 0
    class_: str = msgspec.field(default="", name="class")
    tenant: str = ""
    agent_id: str = ""


class EventLabels(msgspec.Struct, frozen=True):
    """A label file. `rows` has the position of each event id in `labels`."""

    labels: Sequence[EventLabel]
    rows: dict[str, int]


_label_decoder = msgspec.json.Decoder(EventLabel)


def read_labels(path: Path, leave_out: Collection[str] = ()) -> EventLabels:
    """Read a label file.

    Raises:
        ConfigError: a line is no label, or two lines say different things of one event.
    """
    labels: list[EventLabel] = []
    rows: dict[str, int] = {}
    source = FileSource([path])
    try:
        while (taken := source.take_lines(10_000))[1]:
            base, lines = taken
            for number, line in enumerate(lines, base + 1):
                label = _read_label(path, number, line)
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


def _read_label(path: Path, number: int, line: bytes) -> EventLabel:
    try:
        return _label_decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}, record {number}: not a label: {error}") from None


def history_end(last_ms: int) -> datetime:
    """The first time of which a model knows nothing, whose last event was at *last_ms*."""
    return EPOCH + timedelta(milliseconds=last_ms + 1)


def first_applied(last_ms: int, since: datetime | None, after: datetime | None) -> datetime | None:
    """Time from which events are applied: nothing warms up that the model has learned from."""
    if since is None:
        return after
    model_end = min(history_end(last_ms), since)
    return model_end if after is None else max(after, model_end)


def overlap_warning(version: str, last_ms: int, first: datetime | None) -> str | None:
    """Advice where a model is judged by events that it has learned from; *first* is the first that is looked at."""
    end = history_end(last_ms)
    if first is None or first >= end:
        return None
    return (
        f"model {version} learned from events up to {end:%Y-%m-%d %H:%M:%S}, some of which are looked at here: that is "
        "no test on new events, and they are applied to its state a second time; give --from "
        f"{end + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}, or a model trained with --to {first:%Y-%m-%dT%H:%M:%S}"
    )
