"""Text that every database keeps as it is, and orders byte by byte."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

NUL, MARK = "\0", "\1"


def escape_nul(text: str) -> str:
    r"""*text* without U+0000, which PostgreSQL refuses. No two texts become one, and their order and prefixes stay.

    >>> escape("a\0b\1c")
    'a\x010b\x011c'
    """
    return text.replace(MARK, MARK + "1").replace(NUL, MARK + "0") if NUL in text or MARK in text else text


def unescape_nul(text: str) -> str:
    r"""Inverse of `escape`.

    >>> unescape(escape("a\0b\1c")) == "a\0b\1c"
    True
    """
    return text.replace(MARK + "0", NUL).replace(MARK + "1", MARK) if MARK in text else text


class EscapedText(TypeDecorator[str]):
    """Text on PostgreSQL: no U+0000 in it, and collation "C", since others order by language. Never NULL."""

    impl = Text
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(collation="C")

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ARG002
        """Called for every value, so with nothing of SQLAlchemy's around it."""
        return escape_nul

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        """Likewise."""
        return unescape_nul


TEXT = Text().with_variant(EscapedText(), "postgresql")
"""SQLite keeps U+0000 and orders byte by byte by itself."""
