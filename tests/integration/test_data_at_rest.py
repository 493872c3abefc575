"""A local user with another account finds nothing of ours to read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def open_to_others(folder: Path) -> list[str]:
    """Paths below *folder* that another account may read or enter, were the folder itself open."""
    found = [folder, *folder.rglob("*")]
    return [f"{path} {path.stat().st_mode:o}" for path in found if path.exists() and path.stat().st_mode & 0o077]


def test_all_that_the_service_writes_is_its_owners_alone(service: Any, make_event: Any) -> None:
    """Keys, database, segments, login links: with the usual umask of 022, and the folder of 0.1."""
    data = service.folder / "data"
    shutil.rmtree(data, ignore_errors=True)  # the key was made by this process, which is none of ours
    data.mkdir(exist_ok=True)
    data.chmod(0o755)
    assert service.run("token", "--settings", str(service.settings), "--client-id", "all").returncode == 0
    service.key = type(service.key).open(data)
    with service.settings.open("a") as settings:
        settings.write("console: {enabled: true, development_login: true}\n")
    before = os.umask(0o022)
    try:
        service.start()
        assert service.send([make_event("a", number) for number in range(50)]).json()["accepted"] == 50
        assert service.run("console-link", "--settings", str(service.settings)).returncode == 0
        assert service.stop() == 0
    finally:
        os.umask(before)
    assert open_to_others(data) == []
    assert "other users could read our data; closed" in service.log()
