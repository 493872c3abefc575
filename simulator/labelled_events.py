"""Simulated events on their way to the output: their text without id and time, and their labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import msgspec

from .random_streams import RandomStream

CLEAN_LABEL = "clean"
_NUMBER_OFFSET = 1 << 31
"""Keeps the numbers of names apart from those of rows: a session must not look like an event id."""


class SimulatedToken(NamedTuple):
    """A fingerprint of a token, its end (milliseconds since 1970), and the key it is bound to."""

    name: str
    until_ms: int
    thumbprint: str


class SimulatedLabel(msgspec.Struct, frozen=True, gc=False, rename={"scenario": "class"}):
    """The truth about one event; `scenario` is written as `class`."""

    id: str
    agent_id: str
    tenant: str
    session: str
    event_label: int
    session_label: int
    scenario: str


class SimulatedEvent(NamedTuple):
    """One event, ready to send."""

    event: bytes
    label: SimulatedLabel
    at_ms: int


class GroundTruth(NamedTuple):
    """The part of the labels that all rows of one session share."""

    agent_id: str
    tenant: str
    session: str
    session_label: int
    scenario: str


class DraftEvent(NamedTuple):
    """Row of an actor before it gets id and time. Ordered by time, then by key, which is unique: a total order."""

    at_ms: int
    key: int
    body_json: str
    truth: GroundTruth
    event_label: int


class ActorStream:
    """The randomness, numbering and output of one actor (an agent, or an attack).

    Attacks have streams of their own, so that laying one over the enterprise does not change what everybody else does.

    Attributes:
        tokens: those the actor still holds, by task and principal.
    """

    def __init__(self, number: int, draws: RandomStream, salt: int, scenario: str = CLEAN_LABEL) -> None:
        self.draws = draws
        self.salt = salt
        self.scenario = scenario
        self.tokens: dict[tuple[str, str | None], SimulatedToken] = {}
        self._base = number << 32
        self._draft_count = 0
        self._numbers = 0
        self._drafts: list[DraftEvent] = []

    @property
    def extends_baseline(self) -> bool:
        """True if the resources it touches become part of the agent's usual ones."""
        return self.scenario == CLEAN_LABEL

    def next_number(self) -> int:
        """A number that no other actor gets, for sessions, traces and tokens."""
        self._numbers += 1
        return self._base | _NUMBER_OFFSET | self._numbers

    def append(self, at_ms: int, text: str, truth: GroundTruth, event_label: int) -> None:
        """Append one row."""
        self._draft_count += 1
        self._drafts.append(DraftEvent(at_ms, self._base | self._draft_count, text, truth, event_label))

    def drain(self) -> list[DraftEvent]:
        """Hand over the rows since the last call."""
        rows, self._drafts = self._drafts, []
        return rows


_label_encoder = msgspec.json.Encoder()


def encode_label(label: SimulatedLabel) -> bytes:
    """One line of a label file, without the newline.

    >>> encode_label(SimulatedLabel("evt-1", "a", "t", "s", 0, 1, "burst"))
    b'{"id":"evt-1","agent_id":"a","tenant":"t","session":"s","event_label":0,"session_label":1,"class":"burst"}'
    """
    return _label_encoder.encode(label)


def write_jsonl(events: Iterable[SimulatedEvent], out: BinaryIO, labels: BinaryIO | None = None) -> int:
    """Write one JSON object per line, labels in the same order to a file of their own."""
    written = 0
    for event, label, _ in events:
        out.write(event + b"\n")
        if labels is not None:
            labels.write(_label_encoder.encode(label) + b"\n")
        written += 1
    return written
