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
from trustwatch.ingest.compilation import compiled

@compiled
def twice(x):
    return 2 * x
"""


def load(path: Path) -> Any:
    """The module anew, as in a process of its own."""
    spec = importlib.util.spec_from_file_location("kernel_of_a_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.twice(21) == 42
    return module.twice.stats


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
