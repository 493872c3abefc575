"""Kernels are compiled ahead of their use, in parts, as the service calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.features import feature_kernel
from trustwatch.ingest.scan import claim_reader, raw_encoder
from trustwatch.models import assessment_kernel
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk
from trustwatch.scoring.pipeline import kernel_warm_up
from trustwatch.scoring.pipeline.kernel_warm_up import warm_up, warm_up_judging, warm_up_reading
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook


class Calls:
    """Stands in for a kernel: keeps the signatures that it is called with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.seen = kernel, set()

    def __call__(self, *arguments: Any) -> Any:
        self.seen.add(tuple(map(self.kernel.typeof_pyval, arguments)))
        return self.kernel(*arguments)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Calls]:
    """Has a kernel watched, by module and name."""

    def start(module: Any, name: str) -> Calls:
        calls = Calls(getattr(module, name))
        monkeypatch.setattr(module, name, calls)
        return calls

    return start


def test_judging_is_compiled_as_scoring_calls_it(model: TrainedModel, watch: Callable[[Any, str], Calls]) -> None:
    """With the same signatures, or the code of the other process would be of no use; and without the features."""
    update, learn = watch(risk, "update"), watch(feature_kernel, "learn")
    observe = watch(feature_kernel, "observe")
    encoder = ColumnEncoder(model.salt, {})
    policy = LivePolicy(PolicyBook())

    warm_up_judging(model, encoder, policy)
    alone = update.seen, learn.seen
    update.seen, learn.seen = set(), set()
    assert observe.seen == set()
    warm_up(model, encoder, policy)

    assert (update.seen, learn.seen) == alone and all(alone)
    assert observe.seen


def test_reading_calls_both_kernels(watch: Callable[[Any, str], Calls]) -> None:
    """For records of a log, and for events that come in."""
    kernels = watch(raw_encoder, "scan_records"), watch(claim_reader, "read_claims")

    warm_up_reading()

    assert all(kernel.seen for kernel in kernels)


def test_a_part_is_kept_with_all_its_long_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is missing is enough to say so in the log."""
    missing = assessment_kernel.assess_rows
    monkeypatch.setattr(kernel_warm_up, "is_kept", lambda *kernels: missing not in kernels)

    kept = {part: kernel_warm_up.is_part_kept(part) for part in kernel_warm_up.KernelPart}

    assert kept == {"features": True, "judging": False, "reading": True}
