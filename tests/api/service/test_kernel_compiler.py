"""What the service has compiled in another process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trustwatch.api.service import kernel_compiler
from trustwatch.api.service.kernel_compiler import compile_beside_service


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
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(kernel_compiler, "is_kept", lambda part: False)


@pytest.mark.usefixtures("nothing_kept")
def test_a_failure_to_compile_is_logged(tmp_path: Path) -> None:
    assert compile_and_log(tmp_path / "model", stopped=False)[-1].startswith(
        "error: kernels were not compiled: records are read the slower way"
    )


@pytest.mark.usefixtures("nothing_kept")
def test_a_service_that_stops_does_not_wait_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_compiler, "_command", lambda _: ["sleep", "3600"])
    assert compile_and_log(tmp_path / "model", stopped=True) == []
