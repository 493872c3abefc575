"""Columns of migrations. Released migrations use them, so what is here stays as it is."""

from __future__ import annotations

import sqlalchemy as sa

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def text(name: str, default: str | None = None) -> sa.Column[str]:
    """A text."""
    return sa.Column(name, TEXT, nullable=False, server_default=default)


def long(name: str, default: str | None = None) -> sa.Column[int]:
    """A whole number of 64 bits."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def integer(name: str, default: str | None = None) -> sa.Column[int]:
    """A whole number of 32 bits."""
    return sa.Column(name, sa.Integer, nullable=False, server_default=default)


def small(name: str) -> sa.Column[int]:
    """A whole number of 16 bits."""
    return sa.Column(name, sa.SmallInteger, nullable=False)


def real(name: str) -> sa.Column[float]:
    """A float of 64 bits."""
    return sa.Column(name, sa.Float(53), nullable=False)


def blob(name: str) -> sa.Column[bytes]:
    """Bytes."""
    return sa.Column(name, sa.LargeBinary, nullable=False)


def text_key(name: str) -> sa.Column[str]:
    """A text of the primary key."""
    return sa.Column(name, TEXT, primary_key=True)


def integer_key(name: str, kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    """A whole number of the primary key."""
    return sa.Column(name, kind, primary_key=True, autoincrement=False)
