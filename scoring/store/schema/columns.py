"""What tables are made of: columns that are never NULL, and the metadata that all tables belong to."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, MetaData

from ..text import TEXT

METADATA = MetaData()

ROW_ID = BigInteger().with_variant(Integer(), "sqlite")
"""Only a column whose type is spelt INTEGER is SQLite's own row id and counts up by itself."""


def text_column(name: str, default: str | None = None) -> Column[str]:
    """A text."""
    return Column(name, TEXT, nullable=False, server_default=default)


def integer_column(name: str, default: str | None = None) -> Column[int]:
    """A whole number of 64 bits: a time, a count, a key."""
    return Column(name, BigInteger, nullable=False, server_default=default)


def float_column(name: str) -> Column[float]:
    """A float of 64 bits."""
    return Column(name, Float(53), nullable=False)
