"""Texts that others wrote, as people may see them in a log, a terminal or a message."""

from __future__ import annotations


def printable_line(text: str, limit: int | None = None) -> str:
    """One line without control characters and direction marks, at most *limit* characters long.

    What can not be shown becomes a blank, and blanks are joined: no text from outside may write lines into our log or
    move the cursor of a terminal.

    >>> printable_line("no\\x1b[2J\\n such  client"), printable_line("abc", 2)
    ('no [2J such client', 'ab')
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:limit]
