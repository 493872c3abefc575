"""The world in small, played by itself: every process is real, and what it shows is what its README says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.checkout import ROOT
from ..support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420), nightly]

RUN = [sys.executable, "-m", "examples.agents.run", "--exit"]
UNAVAILABLE = 3
WHOLE_S = 360
FOLDER = "trustwatch-agents-"


def environment(folder: Path) -> dict[str, str]:
    """Its temporary folder is made in *folder*."""
    return os.environ | {"TMPDIR": str(folder), "COLUMNS": "200"}


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that know *folder*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/{FOLDER}" in line:
            found.append(line)
    return found


def all_gone(folder: Path, within_s: float = 60.0) -> bool:
    """Whether nothing of a run is left: no process, no folder."""
    deadline = time.monotonic() + within_s
    while processes_of(folder) or list(folder.glob(f"{FOLDER}*")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What was seen in one run of the whole story."""
    folder = tmp_path_factory.mktemp("agents")
    report = folder / "report.json"
    command = [*RUN, "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WHOLE_S, env=environment(folder))
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    yield json.loads(report.read_text()) | {"said": done.stdout, "gone": all_gone(folder)}


def test_everybody_publishes_who_they_are(played: dict[str, Any]) -> None:
    """Agent Cards, the resource's metadata, and claims of a token."""
    assert sorted(played["cards"]) == ["archivist", "clerk", "researcher", "support"]
    assert played["resource"].endswith("/mcp")
    claims = played["claims"]
    assert (claims["agent_type"], claims["organization_id"]) == ("InvoiceClerk", "harbour-trading")
    assert (claims["delegated_user_id"], claims["policy_version"]) == ("dana@harbour.example", "harbour-1")
    assert claims["risk_level"] == "low"
    assert {"read_customer", "send_mail"} <= set(claims["capabilities"]), "it stays within what it declared"
    (act,) = played["act"]
    assert act["act"]["act"]["sub"] == claims["sub"], "archivist, for researcher, for clerk"


def test_the_turned_agent_is_noticed_and_the_reason_names_it(played: dict[str, Any]) -> None:
    assert played["levels_before"] == dict.fromkeys(played["levels_before"], "low")
    assert played["levels"][-1] == "critical"
    first = played["reasons"][0]
    assert first.startswith("new ") and ("customer" in first or "send_mail" in first)


def test_its_next_token_is_shorter_and_then_there_is_none(played: dict[str, Any]) -> None:
    assert played["lifetime_before_s"] == 900
    assert played["lifetimes_after_s"] and max(played["lifetimes_after_s"]) <= 300
    assert played["token_refused"] == ["access_denied"]


def test_its_live_token_is_refused_at_the_gateway(played: dict[str, Any]) -> None:
    """403 of Envoy while the token would still be good for a while."""
    assert played["refused_live_s"] and min(played["refused_live_s"]) > 30


def test_the_agents_it_delegated_to_are_found(played: dict[str, Any]) -> None:
    assert {"researcher", "archivist"} == set(played["children"])
    assert played["child_lifetime_s"] <= 300 < 890 <= played["child_lifetime_recovered_s"]


def test_a_person_is_asked_and_decides(played: dict[str, Any]) -> None:
    asked = played["approval_asked"]
    assert (asked["scopes"], asked["asked_why"]) == (["tools:write"], "step_up_required")
    assert asked["asked_by"] in ("ext_authz", "authzen"), "the gateway, or the authorization server"
    assert asked["level"] in ("medium", "high")
    assert played["approval"] == "rejected"


def test_it_recovers_and_nobody_else_was_touched(played: dict[str, Any]) -> None:
    assert played["lifetime_recovered_s"] == played["lifetime_before_s"]
    assert (played["level_recovered"], played["paid_again"]) == ("low", True)
    assert set(played["others"]) == {"front-desk", "researcher", "archivist", "support"}
    assert set(played["others"].values()) <= {"unknown", "low"}


def test_nothing_is_left_of_it(played: dict[str, Any]) -> None:
    assert played["gone"]
    assert "✘" not in played["said"]


def test_an_interrupt_that_python_forgets_ends_it_all_the_same() -> None:
    """It falls into a finalizer, where Python prints it and goes on: nothing more is told."""
    story = (
        "import os, signal\n"
        "from examples.agents.run import InterruptibleConsole, ShutdownRequest\n"
        "console = InterruptibleConsole(ShutdownRequest())\n"
        "class Finalized:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        sum(range(1000))\n"
        "console.print('before')\n"
        "Finalized()\n"
        "console.print('after')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", story], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Exception ignored in" in ran.stderr
    assert ran.stdout.split() == ["before"]
    assert ran.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_everything_ends_with_it(tmp_path: Path, number: int) -> None:
    """On Ctrl-C in good order, and on kill -9 its processes all the same.

    By day `test_services.py` shows that servers end with whoever started them.
    """
    process = subprocess.Popen(
        RUN,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(tmp_path) | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "reads it" in line or "front-desk  asks" in line:
            break
    if process.poll() == UNAVAILABLE:
        pytest.skip("".join(lines))
    assert processes_of(tmp_path), "".join(lines)
    process.send_signal(number)
    lines.append(process.stdout.read())
    status = process.wait(60)
    process.stdout.close()

    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL), "".join(lines)
    if number == signal.SIGINT:
        assert all_gone(tmp_path)
    else:
        deadline = time.monotonic() + 90
        while processes_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(tmp_path) == []
