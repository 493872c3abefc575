"""Write a simulation down: events to one file, labels to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from .rows import SimulatedEvent, SimulatedLabel

_label_encoder = msgspec.json.Encoder()


def encode_label(label: SimulatedLabel) -> bytes:
    """One line of a label file, without the newline.

    >>> encode_label(Label("evt-1", "a", "t", "s", 0, 1, "burst"))
    b'{"id":"evt-1","agent_id":"a","tenant":"t","session":"s","event_label":0,"session_label":1,"class":"burst"}'
    """
    return _label_encoder.encode(label)


def write_jsonl(events: Iterable[SimulatedEvent], out: BinaryIO, labels: BinaryIO | None = None) -> int:
    """Write one JSON object per line, labels in the same order to a file of their own.

    Returns:
        The number of events written.
    """
    written = 0
    for event, label, _ in events:
        out.write(event + b"\n")
        if labels is not None:
            labels.write(_label_encoder.encode(label) + b"\n")
        written += 1
    return written
