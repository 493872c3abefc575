"""A backup that is taken while events come, a service that is killed, and one that goes on elsewhere."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.service_process import ModelAndDay, Service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BATCH = 100
MOVING = {"version", "evaluated_at", "expires_at", "decision_id", "answered_at"}
"""Members that say when and where an answer was made, not what it says."""


def answers(service: Service) -> dict[tuple[str, str], Any]:
    """What the service says of every agent: its row, and the answer to a question about it."""
    found = {}
    for row in service.pages("/v1/agents"):
        tenant, agent = row["tenant"], row["agent_id"]
        risk = service.get(f"/v1/agents/{agent}/risk", tenant=tenant).json()
        found[tenant, agent] = [{name: one[name] for name in one if name not in MOVING} for one in (row, risk)]
    return found


def sent_until(service: Service, day: Iterator[bytes], ended: threading.Event) -> Counter[str]:
    """Send the events of a day, batch by batch, until *ended*; returns acknowledged events by agent."""
    acknowledged: Counter[str] = Counter()
    while not ended.is_set():
        batch = [raw for raw, _ in zip(day, range(BATCH), strict=False)]
        if not batch:
            break
        assert service.post(b"\n".join(batch)).status_code == 202
        acknowledged.update(json.loads(raw)["agent"]["id"] for raw in batch)
        time.sleep(0.05)
    return acknowledged


def test_a_killed_service_goes_on_elsewhere_as_one_that_was_never_disturbed(
    make_service: Callable[..., Service], world: ModelAndDay, tmp_path: Path
) -> None:
    """All answers equal those of a service that applied the same log from its beginning, in one go.

    What was acknowledged before the backup began is in it.
    """
    service, day = make_service(), iter(world.day)
    service.start()
    before = sent_until(service, (raw for raw, _ in zip(day, range(20 * BATCH), strict=False)), threading.Event())
    ended = threading.Event()
    sender = threading.Thread(target=sent_until, args=(service, day, ended))
    sender.start()
    kill_backup(service, tmp_path / "killed.tar")
    backup = service.run("backup", str(tmp_path / "backup.tar"), "--settings", str(service.settings), "--json")
    ended.set()
    sender.join()
    service.kill_all()
    assert backup.returncode == 0, backup.stderr
    taken = json.loads(backup.stdout)
    assert 0 < taken["offset"] <= taken["log_end_offset"]

    restored, undisturbed = (
        restored_elsewhere(made, tmp_path / "backup.tar") for made in (make_service(), make_service())
    )
    for database in (undisturbed.folder / "data").glob("trustwatch.db*"):
        database.unlink()
    for made in (restored, undisturbed):
        made.start(ready=False)
    for made in (restored, undisturbed):
        made.wait(made.is_ready, 180.0)
        made.settle()
    counts = restored.counts()
    assert not before - Counter(counts)
    assert counts.keys() >= before.keys()
    assert answers(restored) == answers(undisturbed)
    again = restored.post(b"\n".join(world.day[:BATCH])).json()  # a repeated event is recognised across the restore
    assert again["accepted"] + again["duplicate"] == BATCH
    restored.settle()
    assert restored.counts() == counts
    assert restored.stop() == 0


def kill_backup(service: Service, target: Path) -> None:
    """kill -9 of a backup while it copies: no file has its name, and the next one goes there."""
    command = ("backup", str(target), "--settings", str(service.settings))
    for _ in range(10):  # one that was quicker than we are was not killed
        with subprocess.Popen(service.command(*command)) as killed:
            service.wait(
                lambda: list(target.parent.glob(f".{target.name}.*/files/data/log")) or killed.poll() is not None
            )
            killed.kill()
        if not target.exists():
            break
        target.unlink()
    assert list(target.parent.glob(f".{target.name}.*")), "no backup was killed midway"
    assert not target.exists()
    assert service.run(*command).returncode == 0


def restored_elsewhere(made: Service, backup: Path) -> Service:
    """Restore into the folder of a service, whose own key gives way to the one of the backup."""
    for path in (made.folder / "data").iterdir():
        path.unlink()
    done = made.run("restore", str(backup), "--settings", str(made.settings))
    assert done.returncode == 0, done.stderr
    made.key = made.key.open(made.folder / "data")
    return made
