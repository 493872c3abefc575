"""Opens a lab: from a settings file, a data directory, or settings that are read already."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..api.settings.loading import load_process_settings
from ..api.settings.root import Settings
from ..ingest.errors import ConfigError
from ..scoring.store.sql_store import SqlStore, open_reading_store, sqlite_url

if TYPE_CHECKING:
    from .facade import LabSession

SETTINGS_FILE_NAMES = ("settings.yaml", "trustwatch.yaml")


class LabError(ConfigError):
    """What was asked for is not there; the message says where it was looked for and what to do."""

    code = "lab"


class LabWarning(UserWarning):
    """An answer is right but not whole, for instance cut at a limit."""


def open_session(where: Settings | Path | str | None = None, *, tenants: Collection[str] | None = None) -> LabSession:
    """Open what a service knows, to read it. Nothing is written or locked; the service may run meanwhile.

    Args:
        where: a settings file; a folder with one (`settings.yaml`, `trustwatch.yaml`) or a plain data directory, whose
            model is looked for in `model` below or beside it; or settings. None: the file that `TRUSTWATCH_SETTINGS`
            names.
        tenants: show nothing of other tenants; None = all.

    Raises:
        ConfigError: no such file, or settings that are wrong.
    """
    from .facade import LabSession

    settings = where if isinstance(where, Settings) else _read_settings(None if where is None else Path(where))
    return LabSession(settings, None if tenants is None else frozenset(tenants))


def _read_settings(where: Path | None) -> Settings:
    if where is None or where.is_file():
        return load_process_settings(where)
    if not where.is_dir():
        raise LabError(f"{where}: no such settings file or data directory")
    named = next((where / name for name in SETTINGS_FILE_NAMES if (where / name).is_file()), None)
    if named is not None:
        return load_process_settings(named)
    where = where.absolute()
    model = next((path for path in (where / "model", where.parent / "model") if path.is_dir()), where / "model")
    return Settings(data_dir=where, model_dir=model)


def open_read_only_store(settings: Settings) -> SqlStore:
    """The store of the settings, to read. Raises LabError where there is none, Unavailable."""
    store = settings.store
    if store.url is not None:
        return open_reading_store(store.url, password=None if store.password is None else store.password.reveal())
    path = settings.data_dir / "trustwatch.db"
    if not path.is_file():
        raise LabError(
            f'{path}: no store. Name the settings file of a service that has run (open_session("/path/settings.yaml"), '
            "or TRUSTWATCH_SETTINGS), or begin with the example: `make notebooks`"
        )
    return open_reading_store(sqlite_url(path))
