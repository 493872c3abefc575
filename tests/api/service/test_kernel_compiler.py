"""What the service has compiled beside it, and by whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trustwatch.api.service import kernel_compiler
from trustwatch.api.service.kernel_compiler import compile_beside_service, is_scoring_kept, parts_beside_service
from trustwatch.scoring.pipeline.kernel_warm_up import KernelPart

NOTHING: set[KernelPart] = set()


@pytest.mark.parametrize(
    ("kept", "workers", "calls", "wanted"),
    [
        (NOTHING, True, True, ["judging", "reading"]),  # the worker compiles features itself
        (NOTHING, False, True, ["features", "reading"]),
        (NOTHING, False, False, ["reading"]),  # a replica that takes events in, and judges no calls
        ({KernelPart.JUDGING}, True, True, ["reading"]),
        ({KernelPart.FEATURES}, False, True, ["features", "reading"]),  # a compiler was ended between the two
        ({KernelPart.FEATURES, KernelPart.JUDGING}, False, True, ["reading"]),
        (set(KernelPart), True, True, []),
    ],
)
def test_a_role_compiles_what_it_uses_and_is_not_kept(
    kept: set[KernelPart], workers: bool, calls: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most urgent first."""
    monkeypatch.setattr(kernel_compiler, "is_part_kept", lambda part: part in kept)

    assert parts_beside_service(workers=workers, calls=calls) == wanted
    assert is_scoring_kept() == kept.issuperset({KernelPart.FEATURES, KernelPart.JUDGING})


def compile_parts(parts: list[KernelPart], model: Path, *, stopped: bool) -> list[str]:
    """What is logged by a service that has parts compiled, and is stopped at once or never."""

    async def run() -> None:
        quiet = asyncio.Event()
        if stopped:
            quiet.set()
        await compile_beside_service(parts, model, quiet)

    with capture_logs() as logs:
        asyncio.run(run())
    return [f"{line['log_level']}: {line['event']}" for line in logs]


def test_what_can_not_be_compiled_is_said(tmp_path: Path) -> None:
    """The service goes on without; here there is no model."""
    said = compile_parts([KernelPart.JUDGING], tmp_path / "model", stopped=False)

    assert said[-1].startswith("error: kernels were not compiled: records are read the slower way")


def test_a_service_that_stops_waits_for_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is no failure. This one would go on for longer than the test may take."""
    monkeypatch.setattr(kernel_compiler, "_command", lambda *_: ["sleep", "3600"])

    started = compile_parts([KernelPart.READING], tmp_path / "model", stopped=True)

    assert started == ["info: compiling kernels next to the service"]
    assert compile_parts([], tmp_path / "model", stopped=False) == []
