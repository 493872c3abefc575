"""Machine code that is kept is of the sources as they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numba
import pytest

from trustwatch.ingest import compilation
from trustwatch.ingest.features import feature_kernel

KERNEL = """
from trustwatch.ingest.compilation import compiled, inlined

@inlined
def half(x):
    return x / 2

@compiled
def twice(x):
    return 2 * x
"""


def load_module(path: Path) -> Any:
    """The module anew, as in a process of its own."""
    spec = importlib.util.spec_from_file_location("kernel_of_a_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(path: Path) -> Any:
    """What numba says of the cache, after a call."""
    module = load_module(path)
    assert module.twice(21) == 42
    return module.twice.stats


def test_who_can_wait_calls_a_kernel_once_another_process_has_compiled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at once, whoever can not. Code of another kind of processor does not count."""
    path = tmp_path / "kernel_of_a_test.py"
    path.write_text(KERNEL)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    here, there = load_module(path), load_module(path)
    gate = compilation.KernelGate(here.twice, compiled_elsewhere=True)

    assert not gate.is_open()
    assert compilation.KernelGate(here.twice, compiled_elsewhere=False).is_open()
    assert there.twice(21) == 42
    index = here.twice._cache._cache_file
    (name,) = index._load_index().values()
    index._save_index({("signature", ("triple", "another processor", ""), "hashes"): name})
    assert not gate.is_open()
    assert there.twice(2.5) == 5
    assert gate.is_open()


def test_code_that_is_listed_and_not_yet_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba writes the list first; who called the kernel then would compile it, and hold up whom it answers."""
    path = tmp_path / "kernel_of_a_test.py"
    path.write_text(KERNEL)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    here, there = load_module(path), load_module(path)
    assert there.twice(21) == 42
    assert compilation.is_kept(here.twice)

    (code,) = (tmp_path / "cache").rglob("*twice*.nbc")
    code.unlink()
    assert not compilation.is_kept(here.twice)


def test_a_kernel_for_kernels_alone_is_no_jump_to_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no entry to it."""
    path = tmp_path / "kernel_of_a_test.py"
    path.write_text(KERNEL)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    half = load_module(path).half

    for _ in range(2):
        with pytest.raises(TypeError, match="inlined_and_callable"):
            half(3.0)
    assert compilation.inlined_and_callable(half.py_func)(3.0) == 1.5


def test_a_change_of_any_helper_or_constant_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba itself would look at the kernel's own file alone, which stays as it is."""
    path = tmp_path / "kernel_of_a_test.py"
    path.write_text(KERNEL)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    assert not load(path).cache_hits, "the first compiles"
    assert load(path).cache_hits, "the second finds it"
    monkeypatch.setattr(compilation, "source_digest", lambda package: "as if a helper had changed")
    assert not load(path).cache_hits


def test_all_files_with_kernels_count(tmp_path: Path) -> None:
    """Those of sub-packages, too, by name and content."""
    for name in (
        "ingest/scan/record_scanner.py",
        "ingest/features/layout.py",
        "models/feature_tails.py",
        "scoring/engine/risk.py",
        "simulator/demo.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A = 1")
    seen = {compilation.source_digest(tmp_path)}
    for name in (
        "ingest/scan/record_scanner.py",
        "ingest/features/layout.py",
        "models/feature_tails.py",
        "scoring/engine/risk.py",
    ):
        (tmp_path / name).write_text("A = 2")
        compilation.source_digest.cache_clear()
        seen.add(compilation.source_digest(tmp_path))
    assert len(seen) == 5


def test_the_kernels_have_it() -> None:
    """Otherwise a new numba keeps its cache elsewhere, and this needs another way."""
    observe: Any = feature_kernel.observe
    assert observe._cache._cache_file._source_stamp[1] == compilation.source_digest(compilation.PACKAGE_ROOT)
