"""Kernels are compiled ahead of their use, as the service calls them, by one process of a host at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.ingest import compilation
from trustwatch.ingest.compilation import KernelPart, is_kept
from trustwatch.ingest.durable_files import lock_file
from trustwatch.ingest.features import feature_kernel
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk
from trustwatch.scoring.pipeline import kernel_warm_up
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part, warm_up, warm_up_reading

HOLDER = """
import sys, time
from trustwatch.ingest.durable_files import lock_file
file = open(sys.argv[1], "ab")
lock_file(file)
print("locked", flush=True)
time.sleep(3600)
"""
"""A process that holds the lock, as one that compiles for long."""


def watch(monkeypatch: pytest.MonkeyPatch, *kernels: tuple[Any, str]) -> set[str]:
    """Names of those kernels that are called from now on."""
    called: set[str] = set()
    for module, name in kernels:
        kernel = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, kernel=kernel, name=name: (called.add(name), kernel(*given))[1]
        )
    return called


def test_scoring_calls_its_kernels(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    called = watch(monkeypatch, (feature_kernel, "observe"), (feature_kernel, "learn"), (risk, "update"))
    warm_up(model)
    assert called == {"observe", "learn", "update"}


def test_reading_calls_both_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For records of a log, and for incoming events."""
    called = watch(monkeypatch, (raw_encoder, "scan_records"), (claim_reader, "read_claims"))
    warm_up_reading()
    assert called == {"scan_records", "read_claims"}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Place of marks and the lock, empty at first; nothing is called by a warm-up."""
    for module in (compilation, kernel_warm_up):
        monkeypatch.setattr(module, "KERNEL_DIRECTORY", tmp_path)
    for name in ("warm_up", "warm_up_reading"):
        monkeypatch.setattr(kernel_warm_up, name, lambda *_: None)
    return tmp_path


def load() -> Any:
    """No model: nothing is called that needs one."""


@pytest.mark.parametrize("part", [KernelPart.SCORING, KernelPart.READING])
@pytest.mark.usefixtures("directory")
def test_a_part_is_kept_once_it_is_compiled(part: KernelPart) -> None:
    with capture_logs() as logs:
        compile_part(part, load)
        assert is_kept(part)
        compile_part(part, load)
    assert [line["event"].partition(":")[0] for line in logs] == ["compiling kernels", "kernels are compiled"]


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
def test_a_process_compiles_for_itself_if_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compilation, kernel_warm_up):
        monkeypatch.setattr(module, "KERNEL_DIRECTORY", None)
    with capture_logs() as logs:
        compile_part(KernelPart.READING, load)
    assert "NUMBA_CACHE_DIR" in logs[0]["advice"]
    assert not is_kept(KernelPart.READING)
