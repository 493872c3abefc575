"""Opens a lab: from a settings file, a data directory, or settings that are read already."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ...ingest.errors import ConfigError
from ...scoring.store import SqlStore, open_reading_store, sqlite_url
from ..settings import Settings, process_settings

if TYPE_CHECKING:
    from .lab import Lab

SETTINGS_NAMES = ("settings.yaml", "trustwatch.yaml")


class LabError(ConfigError):
    """What was asked for is not there; the message says where it was looked for and what to do."""

    code = "lab"


class LabWarning(UserWarning):
    """An answer is right but not whole, for instance cut at a limit."""


def open_lab(where: Settings | Path | str | None = None, *, tenants: Collection[str] | None = None) -> Lab:
    """Open what a service knows, to read it. Nothing is written or locked; the service may run meanwhile.

    Args:
        where: a settings file; a folder with one (`settings.yaml`, `trustwatch.yaml`) or a plain data directory, whose
            model is looked for in `model` below or beside it; or settings. None: the file that `TRUSTWATCH_SETTINGS`
            names.
        tenants: show nothing of other tenants; None = all.

    Raises:
        ConfigError: no such file, or settings that are wrong.
    """
    from .lab import Lab

    settings = where if isinstance(where, Settings) else _settings(None if where is None else Path(where))
    return Lab(settings, None if tenants is None else frozenset(tenants))


def _settings(where: Path | None) -> Settings:
    if where is None or where.is_file():
        return process_settings(where)
    if not where.is_dir():
        raise LabError(f"{where}: no such settings file or data directory")
    named = next((where / name for name in SETTINGS_NAMES if (where / name).is_file()), None)
    if named is not None:
        return process_settings(named)
    where = where.absolute()
    model = next((path for path in (where / "model", where.parent / "model") if path.is_dir()), where / "model")
    return Settings(data_dir=where, model_dir=model)


def open_store(settings: Settings) -> SqlStore:
    """The store of the settings, to read. Raises LabError where there is none, Unavailable."""
    store = settings.store
    if store.url is not None:
        return open_reading_store(store.url, password=None if store.password is None else store.password.reveal())
    path = settings.data_dir / "trustwatch.db"
    if not path.is_file():
        raise LabError(
            f'{path}: no store. Name the settings file of a service that has run (open_lab("/path/settings.yaml"), or '
            "TRUSTWATCH_SETTINGS), or begin with the example: `make notebooks`"
        )
    return open_reading_store(sqlite_url(path))
