"""promtool: rules are right, each alert stays silent and then fires, and metrics are named as Prometheus names them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.service_stack.promtool import promtool_program
from scripts.service_stack.system import ServiceUnavailable

from ..support.checkout import ROOT
from ..support.service_process import Service

pytestmark = pytest.mark.integration

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The program, fetched once."""
    try:
        return promtool_program()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVICE NOT TO BE HAD: promtool: {reason}")


@pytest.mark.parametrize(
    "given", [("check", "rules", "prometheus-rules.yml"), ("test", "rules", "prometheus-rules.test.yml")]
)
def test_rules(promtool: Path, given: tuple[str, ...]) -> None:
    """As Prometheus reads them, and as deploy/prometheus-rules.test.yml says that they fire."""
    done = subprocess.run([promtool, *given], cwd=DEPLOY, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_metrics_of_a_live_service_have_no_lint(promtool: Path, running: Service) -> None:
    """Names, units and help of ours, as `promtool check metrics` wants them."""
    text = "".join(
        line
        for line in running.client.get("/metrics").text.splitlines(keepends=True)
        if "trustwatch_" in line.partition("{")[0]
    )

    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
