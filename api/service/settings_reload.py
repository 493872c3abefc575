"""SIGHUP: the settings file is read again, and what is safe comes into force without a restart.

A file that turned wrong changes nothing. The processes beside this one get the signal, too, once the file was found
right, and take what concerns them: logs and the token policy.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

import structlog

from trustwatch.ingest.errors import ConfigError

from ..child_process import SupervisedProcess
from ..composition import policy_book
from ..settings.loading import load_process_settings
from ..settings.reloading import ReloadStatus, SettingsChange, change_of_settings
from ..settings.root import Settings
from ..structured_logs import LogLevel, configure_structured_logs

_log = structlog.get_logger(__name__)

_LEVELS: Final = get_args(LogLevel)
"""Levels of logs, the most talkative first."""


class SettingsReload:
    """Reads the settings again on request. For one event loop.

    Args:
        settings: in force since the start.
        file: that they were read from; None: the variables of the environment alone.
        apply: brings a change into force here.
        processes: those beside this one.
        status: of the reloads, for metrics.
    """

    def __init__(
        self,
        settings: Settings,
        file: Path | None,
        apply: Callable[[SettingsChange], None],
        processes: Sequence[SupervisedProcess],
        status: ReloadStatus,
    ) -> None:
        self._settings = settings
        self._file = file
        self._apply = apply
        self._processes = processes
        self._status = status
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Have the file read soon; signals that come together are one."""
        self._requested.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reload whenever it is asked for, until *stop*."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                asked = asyncio.create_task(self._requested.wait())
                await asyncio.wait([asked, stopping], return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
                if self._requested.is_set():
                    self._requested.clear()
                    await self.reload()
        finally:
            stopping.cancel()

    async def reload(self) -> None:
        """Read the file; bring into force what is safe, name what is not."""
        try:
            change = await asyncio.to_thread(self._read)
        except Exception as error:  # whatever is wrong with it, the settings in force stay
            self._status.errors += 1
            text = str(error) if isinstance(error, ConfigError) else repr(error)
            _log.error("settings were not reloaded; those in force stay", error=text)
            return
        self._status.reloads += 1
        logs, before = change.settings.logs, self._settings.logs
        self._settings, self._status.restart_needed = change.settings, change.restart
        is_quieter = _LEVELS.index(logs.level) > _LEVELS.index(before.level)
        if is_quieter:  # by the level that held, else the line that says so would be the first to be left out
            _tell(change)
        configure_structured_logs(logs.level, logs.format)
        self._apply(change)
        for process in self._processes:
            process.send_signal(signal.SIGHUP)
        if not is_quieter:
            _tell(change)

    def _read(self) -> SettingsChange:
        """Raises ConfigError: also where a value can be read and not be used."""
        change = change_of_settings(self._settings, load_process_settings(self._file))
        policy_book(change.settings)
        return change


def _tell(change: SettingsChange) -> None:
    _log.info("settings reloaded", applied=list(change.applied))
    if change.restart:
        _log.warning("settings changed that need a restart", members=list(change.restart))
