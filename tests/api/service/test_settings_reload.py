"""SIGHUP in the service: a right file is applied and passed on, a wrong one changes nothing and is counted."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.api.service import serve as settings_reload
from trustwatch.api.service.serve import SettingsReload
from trustwatch.api.settings.effective import ReloadStatus, SettingsChange
from trustwatch.api.settings.loading import load_settings


class Process:
    """A process beside the service, by its signals."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class Reloading:
    """A reload of one file, and what came of it."""

    def __init__(self, file: Path) -> None:
        self.file, self.status, self.process = file, ReloadStatus(), Process()
        self.changes: list[SettingsChange] = []
        processes: Any = [self.process]
        self.reload = SettingsReload(load_settings(file, {}), file, self.changes.append, processes, self.status)

    def write(self, text: str) -> list[Any]:
        """Reload with another file; returns the lines of the log."""
        self.file.write_text(text)
        with capture_logs() as lines:
            asyncio.run(self.reload.reload())
        return [(line["log_level"], line["event"]) for line in lines]


@pytest.fixture
def reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reloading:
    monkeypatch.setattr(settings_reload, "configure_structured_logs", lambda *_: None)
    file = tmp_path / "settings.yaml"
    file.write_text("settings_version: 2\n")
    return Reloading(file)


def test_a_right_file_is_applied_here_and_passed_on(reloading: Reloading) -> None:
    lines = reloading.write("settings_version: 2\nlogs: {level: error}\n")
    assert lines == [("info", "settings reloaded")]
    assert [change.applied for change in reloading.changes] == [("logs.level",)]
    assert reloading.process.signals == [signal.SIGHUP]
    assert (reloading.status.reloads, reloading.status.errors, reloading.status.restart_needed) == (1, 0, ())


@pytest.mark.parametrize(
    "wrong",
    [
        "logs: {level: loud}\n",
        "logs: [\n",
        "webhooks: [{name: soc, url: 'https://soc.example', secret: {file: missing}}]\n",
    ],
)
def test_a_wrong_file_changes_nothing(reloading: Reloading, wrong: str) -> None:
    lines = reloading.write("settings_version: 2\n" + wrong)
    assert lines == [("error", "settings were not reloaded; the active ones stay")]
    assert (reloading.changes, reloading.process.signals) == ([], [])
    assert (reloading.status.reloads, reloading.status.errors) == (0, 1)
    assert reloading.write("settings_version: 2\n")[0] == ("info", "settings reloaded")


def test_members_that_need_a_restart_are_named_until_the_file_agrees(reloading: Reloading) -> None:
    lines = reloading.write("settings_version: 2\nlisten: {port: 9999}\n")
    assert lines[1] == ("warning", "settings changed that need a restart")
    assert reloading.status.restart_needed == ("listen.port",)
    reloading.write("settings_version: 2\n")
    assert reloading.status.restart_needed == ()


@pytest.mark.parametrize(("before", "after", "told_first"), [("info", "error", True), ("error", "info", False)])
def test_a_reload_is_told_by_the_more_talkative_level(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch, before: str, after: str, told_first: bool
) -> None:
    """Who turns the log down sees that it was, and what else came into force with it."""
    reloading.write(f"settings_version: 2\nlogs: {{level: {before}}}\n")
    with capture_logs() as lines:
        monkeypatch.setattr(settings_reload, "configure_structured_logs", lambda *_: lines.append({"event": after}))
        reloading.file.write_text(f"settings_version: 2\nlogs: {{level: {after}}}\n")
        asyncio.run(reloading.reload.reload())

    assert [line["event"] for line in lines] == (
        ["settings reloaded", after] if told_first else [after, "settings reloaded"]
    )


def test_signals_that_come_together_are_one_reload(reloading: Reloading) -> None:
    async def go() -> None:
        running = asyncio.create_task(reloading.reload.run())
        reloading.reload.request()
        reloading.reload.request()
        while not reloading.status.reloads:
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(go(), 10))
    assert reloading.status.reloads == 1
