"""Dead letters for people: grouped by who sent them and what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trustwatch.scoring.records.dead_letters import DeadLetter


class DeadLetterGroup(NamedTuple):
    """Letters of one source with one reason.

    Attributes:
        waiting: those that were not sent in again.
        newest_ms: when the last one came.
    """

    source: str
    reason: str
    letters: int
    waiting: int
    newest_ms: int


def group_dead_letters(letters: Sequence[DeadLetter]) -> list[DeadLetterGroup]:
    """*letters* by source and reason, the largest group first."""
    by_cause: dict[tuple[str, str], list[DeadLetter]] = {}
    for stored in letters:
        by_cause.setdefault((stored.source, stored.reason), []).append(stored)
    groups = [
        DeadLetterGroup(
            source,
            reason,
            len(letters_of_cause),
            sum(not entry.replayed_ms for entry in letters_of_cause),
            max(entry.received_ms for entry in letters_of_cause),
        )
        for (source, reason), letters_of_cause in by_cause.items()
    ]
    return sorted(groups, key=lambda group: (-group.letters, group.source, group.reason))


def filter_dead_letters(letters: Sequence[DeadLetter], source: str, reason: str) -> list[DeadLetter]:
    """Dead letters of that source and reason; "" = any."""
    return [stored for stored in letters if source in ("", stored.source) and reason in ("", stored.reason)]


# Bytes of a foreign sender are shown as text where they are text, else as a hex dump. They are never interpreted.

MAX_DISPLAYED_BYTES = 16_384
"""Bytes of one record that a page shows; the API gives all of them."""

HEX_LINE_BYTES = 16
_HIDDEN_RATIO = 0.05


class DisplayedBytes(NamedTuple):
    """Bytes made readable.

    Attributes:
        kind: `text` or `hex`.
        lines: without line ends; nothing in them moves or hides other text.
        size: bytes there are.
        omitted: bytes that are not shown.
    """

    kind: str
    lines: tuple[str, ...]
    size: int
    omitted: int


def display_bytes(raw: bytes, most: int = MAX_DISPLAYED_BYTES) -> DisplayedBytes:
    """*raw* for people.

    Text is UTF-8 of which at most one character in twenty is unprintable; those are shown as U+FFFD, so that neither
    control characters nor marks of direction can change how the rest is read.
    """
    part, omitted = raw[:most], max(0, len(raw) - most)
    text = _decode_text(part, cut=omitted > 0)
    if text is None:
        return DisplayedBytes("hex", tuple(hex_dump(part)), len(raw), omitted)
    lines = text.replace("\r\n", "\n").split("\n")
    return DisplayedBytes("text", tuple(_printable(line) for line in lines), len(raw), omitted)


def hex_dump(raw: bytes) -> list[str]:
    """A hex dump, 16 bytes a line.

    >>> hex_dump(b"GIF89a\\x00\\xff")
    ['00000000  47 49 46 38 39 61 00 ff                          |GIF89a..|']
    """
    return [_hex_line(at, raw[at : at + HEX_LINE_BYTES]) for at in range(0, len(raw), HEX_LINE_BYTES)]


def _hex_line(at: int, part: bytes) -> str:
    signs = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
    return f"{at:08x}  {part.hex(' '):<{HEX_LINE_BYTES * 3}} |{signs}|"


def _decode_text(raw: bytes, *, cut: bool) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if not cut or error.start < len(raw) - 3:  # not merely a character that the limit has cut in two
            return None
        text = raw[: error.start].decode()
    hidden = sum(1 for sign in text if not (sign.isprintable() or sign in "\n\r\t"))
    return None if hidden > _HIDDEN_RATIO * len(text) else text


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\t" else "\ufffd" for sign in line)
