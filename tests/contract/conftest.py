"""Stores of each kind for the contracts; a contract that needs more in them has a fixture of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    on_file = request.param == "sqlite"
    url = sqlite_url(tmp_path / "store.db") if on_file else str(request.getfixturevalue("postgres_store_url"))
    with closing(open_store(url)) as opened:
        yield opened
