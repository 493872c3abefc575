"""A warm-up calls every kernel that takes long to compile, as the service calls it."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.features import feature_kernel
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk
from trustwatch.scoring.pipeline.kernel_warm_up import warm_up, warm_up_reading
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook


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
    warm_up(model, ColumnEncoder(model.salt, {}), LivePolicy(PolicyBook()))
    assert called == {"observe", "learn", "update"}


def test_reading_calls_both_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For records of a log, and for incoming events."""
    called = watch(monkeypatch, (raw_encoder, "scan_records"), (claim_reader, "read_claims"))
    warm_up_reading()
    assert called == {"scan_records", "read_claims"}
