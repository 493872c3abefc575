"""Kernels are compiled ahead of their use, by one process of a host at a time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.api.service import kernel_compiler
from trustwatch.api.service.kernel_compiler import compile_beside_service, compile_part
from trustwatch.ingest import compilation
from trustwatch.ingest.compilation import KernelPart, is_kept
from trustwatch.ingest.durable_files import lock_file

HOLDER = """
import sys, time
from trustwatch.ingest.durable_files import lock_file
file = open(sys.argv[1], "ab")
lock_file(file)
print("locked", flush=True)
time.sleep(3600)
"""
"""A process that holds the lock, as one that compiles for long."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Place of marks and the lock, empty at first; nothing is called by a warm-up."""
    for module in (compilation, kernel_compiler):
        monkeypatch.setattr(module, "KERNEL_DIRECTORY", tmp_path)
    for name in ("warm_up", "warm_up_reading"):
        monkeypatch.setattr(kernel_compiler, name, lambda *_: None)
    return tmp_path


def load() -> Any:
    """What scoring needs."""
    return None, None, None


@pytest.mark.parametrize("part", [KernelPart.SCORING, KernelPart.READING])
@pytest.mark.usefixtures("directory")
def test_a_part_is_kept_once_it_is_compiled(part: KernelPart) -> None:
    with capture_logs() as logs:
        compile_part(part, load)
        assert is_kept(part)
        compile_part(part, load)
    assert [line["event"].partition(":")[0] for line in logs] == ["compiling kernels", "kernels are compiled"]


@pytest.mark.usefixtures("directory")
def test_a_part_that_failed_is_not_kept() -> None:
    with pytest.raises(ZeroDivisionError):
        compile_part(KernelPart.SCORING, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert not is_kept(KernelPart.SCORING)


def start_waiting() -> tuple[threading.Thread, list[str]]:
    """A thread that compiles once it may, and what it has reported."""
    reported: list[str] = []
    waiting = threading.Thread(
        target=compile_part, args=(KernelPart.READING, load, lambda text, **_: reported.append(text.partition(":")[0]))
    )
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    return waiting, reported


def test_who_waits_for_a_part_loads_it_while_another_one_compiles(directory: Path) -> None:
    with (directory / "lock").open("ab") as other:
        lock_file(other)
        waiting, reported = start_waiting()
        compilation.mark_kept(KernelPart.READING)
        waiting.join(30)
    assert not waiting.is_alive()
    assert reported == ["waiting for the process that compiles kernels"]


def test_who_waits_compiles_if_the_process_that_compiled_is_killed(directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, directory / "lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        waiting, reported = start_waiting()
        holder.kill()
        waiting.join(30)
    assert not waiting.is_alive()
    assert reported == [
        "waiting for the process that compiles kernels",
        "compiling kernels",
        "kernels are compiled",
    ]
    assert is_kept(KernelPart.READING)


@pytest.mark.usefixtures("directory")
def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_compiler, "PROGRESS_EVERY_S", 0.01)
    monkeypatch.setattr(kernel_compiler, "warm_up_reading", lambda: threading.Event().wait(0.5))
    with capture_logs() as logs:
        compile_part(KernelPart.READING, load)
    assert {"kernels", "seconds", "part"} <= set(logs[1])


@pytest.mark.usefixtures("directory")
def test_a_process_compiles_for_itself_if_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With advice in the log; no other process is started, whose code it could not load."""
    for module in (compilation, kernel_compiler):
        monkeypatch.setattr(module, "KERNEL_DIRECTORY", None)
    monkeypatch.setattr(kernel_compiler, "_command", lambda _: ["false"])
    with capture_logs() as logs:
        compile_part(KernelPart.READING, load)
    assert "NUMBA_CACHE_DIR" in logs[0]["advice"]
    assert not is_kept(KernelPart.READING)
    assert compile_and_log(Path("model"), stopped=False) == []


def compile_and_log(model: Path, *, stopped: bool) -> list[str]:
    """What is logged by a service that is stopped at once or never."""

    async def run() -> None:
        quiet = asyncio.Event()
        if stopped:
            quiet.set()
        await compile_beside_service(model, quiet)

    with capture_logs() as logs:
        asyncio.run(run())
    return [f"{line['log_level']}: {line['event']}" for line in logs]


@pytest.fixture
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is compiled yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(kernel_compiler, "is_kept", lambda part: False)


@pytest.mark.usefixtures("nothing_kept")
def test_a_failure_to_compile_is_logged(tmp_path: Path) -> None:
    """The service continues without; here there is no model."""
    assert compile_and_log(tmp_path / "model", stopped=False)[-1].startswith(
        "error: kernels were not compiled: records are read the slower way"
    )


@pytest.mark.usefixtures("nothing_kept")
def test_a_service_that_stops_does_not_wait_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is not a failure. This one would run for longer than the test may take."""
    monkeypatch.setattr(kernel_compiler, "_command", lambda _: ["sleep", "3600"])
    assert compile_and_log(tmp_path / "model", stopped=True) == []


def test_nothing_is_started_if_all_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_compiler, "is_kept", lambda part: True)
    monkeypatch.setattr(kernel_compiler, "_command", lambda _: ["false"])
    assert compile_and_log(tmp_path / "model", stopped=False) == []
