"""Databases with the tables of earlier versions: `tests/scoring/store/schemas`, dumped before their migrations went."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMAS = Path(__file__).parents[1] / "scoring" / "store" / "schemas"


def revisions_of(database: str) -> list[str]:
    """Revisions that are kept: 0001 is 0.1, 0008 is 0.2, 0016 and 0023 are builds between 0.2 and 0.3."""
    return sorted(path.stem.rpartition("-")[2] for path in SCHEMAS.glob(f"{database}-*.sql"))


def make_old_sqlite(path: Path, revision: str) -> None:
    """Make a file with the tables of *revision*."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((SCHEMAS / f"sqlite-{revision}.sql").read_text())
