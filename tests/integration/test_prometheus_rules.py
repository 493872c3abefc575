"""promtool: rules are right, each alert stays silent and then fires, and metrics are named as Prometheus names them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.service_stack.promtool import promtool_program
from scripts.service_stack.system import ServiceUnavailable

from ..support.checkout import ROOT

pytestmark = pytest.mark.integration

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def promtool() -> Path:
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
