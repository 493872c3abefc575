"""Rows on their way to the output: the text of an event without id and time, and what it is labelled with."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .draws import Draws

CLEAN = "clean"
_NAMES = 1 << 31
"""Keeps the numbers of names apart from those of rows: a session must not look like an event id."""


class Token(NamedTuple):
    """A fingerprint of a token, its end (milliseconds since 1970), and the key it is bound to."""

    name: str
    until_ms: int
    thumbprint: str


class Label(msgspec.Struct, frozen=True, gc=False, rename={"scenario": "class"}):
    """The truth about one event; `scenario` is written as `class`.

    Args:
        id: id of the event.
        event_label: 1 where the event itself is the attacker's doing.
        session_label: 1 where any event of its session is.
        scenario: name of the attack, or `clean`.
    """

    id: str
    agent_id: str
    tenant: str
    session: str
    event_label: int
    session_label: int
    scenario: str


class SimulatedEvent(NamedTuple):
    """One event, ready to send.

    Args:
        event: native JSON, no newline.
        label: never sent to the service.
        at_ms: event time, milliseconds since 1970.
    """

    event: bytes
    label: Label
    at_ms: int


class Truth(NamedTuple):
    """What all rows of one session share in their labels."""

    agent_id: str
    tenant: str
    session: str
    session_label: int
    scenario: str


class Row(NamedTuple):
    """Compared by time, then by key, which is unique; the order is therefore total."""

    at_ms: int
    key: int
    text: str
    truth: Truth
    event_label: int


class Stream:
    """The randomness, numbering and output of one actor (an agent, or an attack).

    Attacks have streams of their own, so that laying one over the enterprise does not change what everybody else does.

    Args:
        number: unique, below 2**31.
        scenario: class of the labels.

    Attributes:
        tokens: those the actor still holds, by task and principal.
    """

    def __init__(self, number: int, draws: Draws, salt: int, scenario: str = CLEAN) -> None:
        self.draws = draws
        self.salt = salt
        self.scenario = scenario
        self.tokens: dict[tuple[str, str | None], Token] = {}
        self._base = number << 32
        self._rows = 0
        self._names = 0
        self._out: list[Row] = []

    @property
    def learns(self) -> bool:
        """Whether what it touches becomes part of the agent's usual resources."""
        return self.scenario == CLEAN

    def name(self) -> int:
        """A number that no other actor gets, for sessions, traces and tokens."""
        self._names += 1
        return self._base | _NAMES | self._names

    def add(self, at_ms: int, text: str, truth: Truth, event_label: int) -> None:
        """Append one row."""
        self._rows += 1
        self._out.append(Row(at_ms, self._base | self._rows, text, truth, event_label))

    def take(self) -> list[Row]:
        """Hand over the rows since the last call."""
        rows, self._out = self._out, []
        return rows
