"""Texts that others wrote, and numbers, as people may see them in a log, a terminal or a message."""

from __future__ import annotations

import json
import re

_GROUPED_FROM, _LEAST_SHOWN = 999.5, 0.001


def printable_line(text: str, limit: int | None = None) -> str:
    """One line without control characters and direction marks, at most *limit* characters long.

    What cannot be shown becomes a blank, and blanks are joined: no text from outside may write lines into our log or
    move the cursor of a terminal.

    >>> printable_line("no\\x1b[2J\\n such  client"), printable_line("abc", 2)
    ('no [2J such client', 'ab')
    """
    shown = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:limit]


def escaped_text(text: str) -> str:
    """Text as a terminal may have it: names are chosen by agents, and one could move the cursor or turn a line round.

    >>> escaped_text("bot\\x1b[2J")
    'bot\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def escaped_json(text: str) -> str:
    """JSON whose strings hold nothing that a terminal obeys (C0, DEL, C1, direction marks): the same value, escaped.

    >>> escaped_json('{"id": "bot\\u202e"}')
    '{"id": "bot\\\\u202e"}'
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)


_OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Controls but blanks and line breaks, and direction marks. Not all that is unprintable: joiners belong to scripts."""


def shown_controls(text: str) -> str:
    """Text for a page on which no name turns its neighbours round, or itself into another one.

    >>> shown_controls("nimda\\u202e, low")
    'nimda\\\\u202e, low'
    """
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def number_text(value: float, digits: int = 3) -> str:
    """A number as people read it: to so many digits, without an exponent, whole and in groups of three from 1,000 on.

    >>> [number_text(value) for value in (0.0, 1.08e-16, 0.01234, 12.0, 999.7, 1234567.8)]
    ['0', 'less than 0.001', '0.0123', '12', '1,000', '1,234,568']
    """
    if abs(value) >= _GROUPED_FROM:
        return f"{value:,.0f}"
    if 0.0 < abs(value) < _LEAST_SHOWN:
        return "less than 0.001" if value > 0.0 else "more than -0.001"
    return f"{value:.{digits}g}"
