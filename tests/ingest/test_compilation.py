"""Machine code is kept for the sources as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
print(json.dumps([str(KERNEL_DIRECTORY), sum(quarter.stats.cache_hits.values())]))
"""


def run_kernel(path: Path, **environment: str) -> tuple[Path, int]:
    """Directory of machine code in a new process, and how many kernels it found there."""
    path.write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, str(path)], env=os.environ | environment, check=True, capture_output=True, timeout=300
    )
    directory, hits = json.loads(done.stdout)
    return Path(directory), hits


def test_a_second_process_finds_the_code_of_the_first(tmp_path: Path) -> None:
    first = run_kernel(tmp_path / "kernel.py", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    second = run_kernel(tmp_path / "kernel.py", NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert first[0].parent == tmp_path / "cache"
    assert (first[0], second) == (second[0], (first[0], 1))


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


def test_a_directory_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    """The last resort belongs to this process alone: machine code of another user is never loaded."""
    (tmp_path / "file").write_text("")
    found = compilation._kernel_directory([tmp_path / "file", tmp_path])
    alone = compilation._kernel_directory([tmp_path / "file"])

    assert found.parent == tmp_path
    assert alone.stat().st_mode & 0o777 == 0o700
    assert alone != compilation._kernel_directory([tmp_path / "file"])


def test_all_files_with_kernels_count(tmp_path: Path) -> None:
    """Those of sub-packages, too, by name and content."""
    names = (
        "ingest/scan/record_scanner.py",
        "ingest/features/layout.py",
        "models/feature_tails.py",
        "scoring/engine/risk.py",
    )
    for name in (*names, "simulator/demo.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A = 1")
    seen = {compilation.source_digest(tmp_path)}
    for name in names:
        (tmp_path / name).write_text("A = 2")
        seen.add(compilation.source_digest(tmp_path))
    assert len(seen) == 5


def test_a_gate_opens_once_the_part_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "KERNEL_DIRECTORY", tmp_path)
    gate = KernelGate(KernelPart.READING, compiled_elsewhere=True)

    assert KernelGate(KernelPart.READING, compiled_elsewhere=False).is_open()
    compilation.mark_kept(KernelPart.SCORING)
    assert not gate.is_open()
    compilation.mark_kept(KernelPart.READING)
    assert gate.is_open()
