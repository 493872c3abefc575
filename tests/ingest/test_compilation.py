"""Machine code is kept for the sources as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest

from trustwatch.ingest import compilation
from trustwatch.ingest.compilation import KernelGate, KernelPart

KERNEL = """
import json
from trustwatch.ingest.compilation import KERNEL_DIRECTORY, compiled, inlined
@inlined
def half(x):
    return x / 2

@compiled
def quarter(x):
    return half(half(x))

assert half(3.0) == 1.5
assert quarter(3.0) == 0.75
print(json.dumps([KERNEL_DIRECTORY and str(KERNEL_DIRECTORY), sum(quarter.stats.cache_hits.values())]))
"""


def run_kernel(path: Path, **environment: str) -> tuple[Path | None, int]:
    """Directory of machine code in a new process, and how many kernels it found there."""
    path.write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, str(path)], env=os.environ | environment, check=True, capture_output=True, timeout=300
    )
    directory, hits = json.loads(done.stdout)
    return directory and Path(directory), hits


def test_a_second_process_finds_the_code_of_the_first(tmp_path: Path) -> None:
    first = run_kernel(tmp_path / "kernel.py", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    second = run_kernel(tmp_path / "kernel.py", NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert first[0] is not None and first[0].parent == tmp_path / "cache"
    assert (first[1], second) == (0, (first[0], 1))


def test_code_is_kept_apart_by_sources_numba_and_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba checks the file of the kernel alone, and would run code that was compiled with another constant."""
    seen = {compilation._kernel_directory([tmp_path])}
    for module, name in (
        (compilation, "source_digest"),
        (numba, "__version__"),
        (compilation.llvmlite.binding, "get_host_cpu_name"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, "other" if name == "__version__" else lambda *_: "other")
            seen.add(compilation._kernel_directory([tmp_path]))
    assert len(seen) == 4
    assert compilation._kernel_directory([tmp_path]) in seen


def test_code_for_any_processor_is_found_on_every_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is built for `generic` on another host than it runs on."""
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    built = compilation._kernel_directory([tmp_path])
    monkeypatch.setattr(compilation.llvmlite.binding, "get_host_cpu_name", lambda: "other")
    monkeypatch.setattr(compilation.llvmlite.binding, "get_host_cpu_features", lambda: SimpleNamespace(flatten=str))
    assert built == compilation._kernel_directory([tmp_path])


def test_code_that_no_process_has_started_with_for_a_week_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions and processors may share a folder, so code that is in use stays, and so do other folders."""
    now_s, week_s = time.time(), compilation.UNUSED_AFTER_S
    for name, age_s in (("kernels-a", week_s + 60), ("kernels-b", week_s - 60), ("other", 2 * week_s)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.nbc").touch()
        os.utime(tmp_path / name, (now_s - age_s,) * 2)
    ours = compilation._kernel_directory([tmp_path])
    assert ours is not None
    monkeypatch.setattr(compilation, "KERNEL_DIRECTORY", ours)

    compilation.remove_unused_kernels()

    assert {path.name for path in tmp_path.iterdir()} == {"kernels-b", "other", ours.name}
    assert compilation._kernel_directory([tmp_path]) == ours and ours.stat().st_mtime >= now_s - 60


def test_a_directory_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = compilation._kernel_directory([tmp_path / "file", tmp_path])

    assert found is not None and found.parent == tmp_path
    assert compilation._kernel_directory([tmp_path / "file"]) is None


def test_a_full_disk_is_passed_over_unless_it_has_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = compilation._kernel_directory([tmp_path])
    monkeypatch.setattr(compilation.shutil, "disk_usage", lambda _: SimpleNamespace(free=compilation.ROOM_BYTES - 1))

    assert compilation._kernel_directory([tmp_path]) is None
    assert full is not None
    (full / KernelPart.SCORING).touch()
    assert compilation._kernel_directory([tmp_path]) == full


def test_a_gate_opens_once_the_part_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "KERNEL_DIRECTORY", tmp_path)
    gate = KernelGate(KernelPart.READING, compiled_elsewhere=True)

    assert KernelGate(KernelPart.READING, compiled_elsewhere=False).is_open()
    compilation.mark_kept(KernelPart.SCORING)
    assert not gate.is_open()
    compilation.mark_kept(KernelPart.READING)
    assert gate.is_open()
    monkeypatch.setattr(compilation, "KERNEL_DIRECTORY", None)
    assert KernelGate(KernelPart.TRAINING, compiled_elsewhere=True).is_open(), "waiting would not help"
