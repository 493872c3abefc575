"""Group commit: shared fsync, bounds, failures, and what SIGKILL leaves behind."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.group_commit import Backpressure, GroupCommit
from trustwatch.ingest.source import Record

from ...support.log_records import make_record, read_records
from ...support.nightly import size


class SlowDisk:
    """Holds each commit until it is let go, counts them, and fails as many as it is told."""

    def __init__(self, real: Callable[[EventLog], None]) -> None:
        self.go = threading.Event()
        self.calls = 0
        self.failures = 0
        self.real = real

    def commit(self, log: EventLog) -> None:
        self.calls += 1
        self.go.wait(30)
        if self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("database or disk is full")
        self.real(log)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk = SlowDisk(EventLog._commit)
    disk.go.set()
    monkeypatch.setattr(EventLog, "_commit", lambda log: disk.commit(log))  # noqa: PLW0108 (it gets the log)
    return disk


def test_concurrent_callers_share_fsyncs_and_get_their_own_offsets(tmp_path: Path, disk: SlowDisk) -> None:
    """While one fsync runs the others queue; all of them need one more. Each gets the offset of its first record."""

    async def scenario() -> list[int]:
        group = GroupCommit(log)
        disk.go.clear()
        before = disk.calls
        tasks = [asyncio.create_task(group.commit([make_record(2 * i), make_record(2 * i + 1)])) for i in range(50)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in tasks)
        disk.go.set()
        offsets = await asyncio.gather(*tasks)
        assert disk.calls - before <= 2
        assert group.waiting_bytes == 0
        await group.close()
        return offsets

    with EventLog(tmp_path) as log:
        offsets = asyncio.run(scenario())
    assert offsets == list(range(0, 100, 2))
    assert read_records(tmp_path) == [make_record(i) for i in range(100)]


def test_a_full_queue_is_refused_with_a_hint(tmp_path: Path, disk: SlowDisk) -> None:
    """Beyond the bound nothing is kept and `retry_after_s` is told; what was queued before is written by `close`."""

    async def scenario() -> None:
        group = GroupCommit(log, queue_bytes=1000, retry_after_s=2.5)
        disk.go.clear()
        queued = asyncio.create_task(group.commit([make_record(0, 900)]))
        await asyncio.sleep(0)
        with pytest.raises(Backpressure) as caught:
            await group.commit([make_record(1, 900)])
        assert caught.value.retry_after_s == 2.5
        disk.go.set()
        await group.close()
        assert queued.done()
        with pytest.raises(LogFailed, match="does not accept"):
            await group.commit([make_record(2)])

    with EventLog(tmp_path) as log:
        asyncio.run(scenario())
    assert read_records(tmp_path) == [make_record(0, 900)]


def test_a_failed_round_fails_everybody_and_the_log_recovers(tmp_path: Path, disk: SlowDisk) -> None:
    """The round, the queue behind it and early retries get LogFailed; later the log is reopened and goes on."""

    async def scenario() -> None:
        group = GroupCommit(log, retry_after_s=0.05)
        assert await group.commit([make_record(0)]) == 0
        disk.go.clear()
        disk.failures = 1  # the disk is well again at once, yet nobody in this queue may be told so
        first = asyncio.create_task(group.commit([make_record(90)]))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(group.commit([make_record(91)]))
        await asyncio.sleep(0.01)
        disk.go.set()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [LogFailed, LogFailed]
        with pytest.raises(LogFailed, match="does not accept"):
            await group.commit([make_record(92)])
        assert group.waiting_bytes == 0
        await asyncio.sleep(0.06)
        assert await group.commit([make_record(1)]) == 1
        await group.close()

    with EventLog(tmp_path) as log:
        asyncio.run(scenario())
    assert read_records(tmp_path) == [make_record(0), make_record(1)]


def test_a_caller_that_gives_up_harms_nobody(tmp_path: Path, disk: SlowDisk) -> None:
    """A cancelled caller in the queue is left out; its neighbours get consecutive offsets."""

    async def scenario() -> list[int]:
        group = GroupCommit(log)
        disk.go.clear()
        first = asyncio.create_task(group.commit([make_record(0)]))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(group.commit([make_record(99)]))
        last = asyncio.create_task(group.commit([make_record(1)]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        disk.go.set()
        offsets = [await first, await last]
        await group.close()
        return offsets

    with EventLog(tmp_path) as log:
        assert asyncio.run(scenario()) == [0, 1]
    assert read_records(tmp_path) == [make_record(0), make_record(1)]


def test_a_record_that_cannot_be_encoded_fails_its_round_only(tmp_path: Path, disk: SlowDisk) -> None:
    """An impossible number is an error for the caller, and the log goes on."""

    async def scenario() -> None:
        group = GroupCommit(log)
        with pytest.raises(Exception, match=r"argument|requires 0 <= number"):
            await group.commit([Record(0, -1, 0, b"x")])
        assert await group.commit([make_record(0)]) == 0
        assert await group.run_between_rounds(lambda log: log.drop_before(0, 0, 0)) == 0
        await group.close()

    with EventLog(tmp_path) as log:
        asyncio.run(scenario())


WRITER = textwrap.dedent("""
    import asyncio, os, resource, sys
    from pathlib import Path
    from trustwatch.ingest.log.event_log import EventLog, LogFailed
    from trustwatch.ingest.log.group_commit import GroupCommit
    from trustwatch.ingest.source import Record

    def acknowledged(offset, name):
        os.write(1, f"{offset} {name}\\n".encode())

    async def caller(group, who):
        for i in range(1_000_000):
            name = f"{os.getpid()}-{who}-{i}"
            acknowledged(await group.commit([Record(0, 1, i, name.encode().ljust(300, b"."))]), name)

    async def until_killed(log):
        group = GroupCommit(log)
        await asyncio.gather(*(caller(group, who) for who in range(20)))

    async def until_full(log):
        group = GroupCommit(log, retry_after_s=0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        try:
            await caller(group, "before")
        except LogFailed as error:
            os.write(1, f"refused {error}\\n".encode())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await asyncio.sleep(0.02)
        acknowledged(await group.commit([Record(0, 1, 0, b"after".ljust(300, b"."))]), "after")
        await group.close()

    with EventLog(Path(sys.argv[1]), segment_bytes=200_000) as log:
        asyncio.run(globals()[sys.argv[2]](log))
""")


def start_writer(directory: Path, scenario: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(directory), scenario], stdout=subprocess.PIPE)


def check_acknowledged(directory: Path, acknowledged: dict[int, str]) -> None:
    """Each acknowledged record is in the log exactly once, at its offset; no record is there twice."""
    with EventLog(directory) as log:
        names = [record.payload.rstrip(b".").decode() for record in read_records(directory)]
        assert log.next_offset == len(names)
    assert {offset: names[offset] for offset in acknowledged} == acknowledged
    assert len(set(names)) == len(names)


def test_sigkill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed again and again while twenty callers write: each acknowledged record is there once, without gaps."""
    chance = random.Random(7)
    acknowledged: dict[int, str] = {}
    kills = size(each_push=3, nightly=20)
    for _ in range(kills):
        writer = start_writer(tmp_path, "until_killed")
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        threading.Event().wait(chance.uniform(0.0, 0.08))
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                offset, name = line.decode().split()
                assert int(offset) not in acknowledged
                acknowledged[int(offset)] = name
        check_acknowledged(tmp_path, acknowledged)
    assert len(acknowledged) > 10 * kills


def test_a_full_disk_is_unavailable_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """At a file-size limit callers get LogFailed; with room again the same writer goes on."""
    writer = start_writer(tmp_path, "until_full")
    output = writer.communicate(timeout=60)[0].decode().splitlines()
    assert writer.returncode == 0
    failed = [line for line in output if line.startswith("refused")]
    acknowledged = {int(line.split()[0]): line.split()[1] for line in output if line.split()[0].isdigit()}
    assert len(failed) == 1
    assert "disk" in failed[0]
    assert list(acknowledged) == list(range(len(acknowledged)))
    assert acknowledged[len(acknowledged) - 1] == "after"
    check_acknowledged(tmp_path, acknowledged)
