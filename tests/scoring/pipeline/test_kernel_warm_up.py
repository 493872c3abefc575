"""Kernels are compiled ahead of their use, one process at a time, as the service calls them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.ingest import compilation
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KernelPart, is_kept
from trustwatch.ingest.durable_files import lock_file
from trustwatch.ingest.features import feature_kernel
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk
from trustwatch.scoring.pipeline import kernel_warm_up
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook

KERNELS = {
    KernelPart.SCORING: [
        (feature_kernel, "observe"),
        (feature_kernel, "learn"),
        (risk, "update"),
    ],
    KernelPart.READING: [(raw_encoder, "scan_records"), (claim_reader, "read_claims")],
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where marks and the lock are, empty at first."""
    for module in (compilation, kernel_warm_up):
        monkeypatch.setattr(module, "KERNEL_DIRECTORY", tmp_path)
    return tmp_path


def load(model: TrainedModel) -> Any:
    """What scoring needs."""
    return lambda: (model, ColumnEncoder(model.salt, {}), LivePolicy(PolicyBook()))


@pytest.mark.parametrize("part", KERNELS)
def test_a_part_calls_its_kernels_and_is_kept(
    part: KernelPart, model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()
    for module, name in KERNELS[part]:
        kernel = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, kernel=kernel, name=name: (called.add(name), kernel(*given))[1]
        )
    assert not is_kept(part)

    with capture_logs() as logs:
        compile_part(part, load(model))

    assert called == {name for _, name in KERNELS[part]}
    assert is_kept(part)
    assert [line["event"] for line in logs][-1] == "kernels are compiled"
    with capture_logs() as logs:
        compile_part(part, load(model))
    assert logs == []


def test_a_part_that_failed_is_not_kept(directory: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        compile_part(KernelPart.SCORING, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert not is_kept(KernelPart.SCORING)


def test_one_process_compiles_and_the_others_wait(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_warm_up, "warm_up_reading", lambda: None)
    waiting = threading.Thread(target=compile_part, args=(KernelPart.READING, None))
    with (directory / "lock").open("ab") as other:
        lock_file(other)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()
    assert is_kept(KernelPart.READING)


def test_progress_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = threading.Event()
    monkeypatch.setattr(kernel_warm_up, "PROGRESS_EVERY_S", 0.01)
    monkeypatch.setattr(kernel_warm_up, "warm_up_reading", lambda: progress.wait(0.5))
    with capture_logs() as logs:
        compile_part(KernelPart.READING, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert {"kernels", "seconds", "part"} <= set(logs[1])
