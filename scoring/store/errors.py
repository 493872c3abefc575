"""Errors of the store, below the classes of `ingest/errors.py`."""

from __future__ import annotations

from ...ingest.errors import ConfigError, TrustwatchError


class StoreTooNew(ConfigError):
    """The database was written by a newer Trustwatch; nothing was touched."""

    code = "store_too_new"


class BadCursor(TrustwatchError):
    """A page cursor is not one that this store gave out; start again without one."""

    code = "invalid_cursor"
