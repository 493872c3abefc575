"""Labels: which events were bad. The evaluation alone reads them; nothing that scores ever sees one.

A file of JSON lines, plain or gzip: `{"id", "session", "event_label", "session_label", "class"}`, as
`trustwatch simulate --labels` writes them. Further members are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.files import FileSource


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

    Args:
        path: JSON lines.
        leave_out: classes that are neither good nor bad, whose events count for nothing.

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
