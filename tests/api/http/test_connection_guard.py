"""Bounds of connections that depend on the machine: open files."""

from __future__ import annotations

import resource

import pytest

from trustwatch.api.http.connection_guard import RESERVED_FILES, affordable_connections


@pytest.mark.parametrize(
    ("soft", "hard", "affordable", "raised"),
    [
        (1024, 1_000_000, 4096, 4096 + RESERVED_FILES),
        (1024, resource.RLIM_INFINITY, 4096, 4096 + RESERVED_FILES),
        (1024, 1024, 1024 - RESERVED_FILES, 1024),
        (1_000_000, 1_000_000, 4096, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, None),
    ],
)
def test_connections_that_open_files_are_there_for(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, affordable: int, raised: int | None
) -> None:
    """The soft limit is raised where it may be; else fewer connections are taken."""
    set_to: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits[0]))

    assert affordable_connections(4096) == affordable
    assert set_to == ([] if raised is None else [raised])
