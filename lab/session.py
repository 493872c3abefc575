"""A session on the data of a service: its settings, store and models, opened to be read. Nothing here needs pandas."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from trustwatch.api.composition import engine_settings, open_service_store_reading, store_address
from trustwatch.api.settings.loading import load_process_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import install_line
from trustwatch.models.detector import ForestDetector
from trustwatch.models.model_directory import is_model
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.learning.budget_check import BudgetReport
from trustwatch.scoring.store.sql_store import SqlStore

SETTINGS_FILE_NAMES = ("settings.yaml", "trustwatch.yaml")
EXTRA_MISSING = f"trustwatch.lab needs pandas, altair and vl-convert-python: {install_line('lab')}"
_CACHED_AGENTS = 50_000


class LabError(ConfigError):
    """Raised if data is missing. The message states the location and the remedy."""

    code = "lab"


class LabWarning(UserWarning):
    """Warns that an answer is right but incomplete, for instance cut at a limit."""


def is_extra_installed() -> bool:
    """Return whether the packages for frames and charts are installed."""
    return all(find_spec(name) is not None for name in ("pandas", "altair", "vl_convert"))


@dataclass(frozen=True, eq=False)
class LabModel:
    """A loaded or newly trained model.

    Attributes:
        directory: of the model; `trustwatch serve` can be pointed at a copy of it.
        trained: the model as scoring uses it.
        budget_report: the alert budget on its own held-out history; None for a model that was not trained here.
    """

    directory: Path
    trained: TrainedModel
    budget_report: BudgetReport | None = None

    def __repr__(self) -> str:
        first, last = (datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in self.trained.window_ms)
        window = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        return f"<model {self.trained.version}: learned from {window}; {self.directory}>"

    @property
    def detector(self) -> ForestDetector:
        """Return the model's detector, which maps vectors to scores."""
        return self.trained.detector


class LabSession:
    """A service's store, models and events, opened read-only. Use `open_session`."""

    def __init__(self, settings: Settings, tenants: frozenset[str] | None = None) -> None:
        self.settings = settings
        self.tenants = tenants

    def __repr__(self) -> str:
        store = "SQLite" if self.settings.store.url is None else "PostgreSQL"
        shown = "all tenants" if self.tenants is None else f"tenants {', '.join(sorted(self.tenants))}"
        return f"<lab of {self.settings.data_dir} ({store}), {shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def store(self) -> SqlStore:
        """The service's store, opened on first use. Raises LabError if it does not exist, Unavailable."""
        return open_read_only_store(self.settings)

    @cached_property
    def engine_settings(self) -> EngineSettings:
        """Settings of the engine that replays events."""
        return engine_settings(self.settings, capacity=_CACHED_AGENTS)

    @cached_property
    def work_folder(self) -> tempfile.TemporaryDirectory[str]:
        """A temporary folder, removed when the session is closed."""
        return tempfile.TemporaryDirectory(prefix="trustwatch-lab-")

    def model(self, directory: str | Path | None = None) -> LabModel:
        """Load the model of the settings or of another directory. Raises LabError if it does not exist, ModelError."""
        path = Path(directory) if directory is not None else self.settings.model_dir
        if not is_model(path):
            raise LabError(
                f"{path}: no model. Learn one from normal history: `trustwatch train FILES --model {path}`, or "
                "`replays.train_model(session, frames.events(session), directory=…)`"
            )
        return LabModel(path, load_trained_model(path))

    def close(self) -> None:
        """Close the store, and remove models and files created by the session."""
        if "store" in self.__dict__:
            self.store.close()
            del self.store
        if "work_folder" in self.__dict__:
            self.work_folder.cleanup()
            del self.work_folder


def open_session(where: Settings | Path | str | None = None, *, tenants: Collection[str] | None = None) -> LabSession:
    """Open the data of a service read-only. Nothing is written or locked, and the service may be running.

    Raises:
        ConfigError: no such file, or invalid settings.
    """
    shown = None if tenants is None else frozenset(tenants)
    if isinstance(where, Settings):
        return LabSession(where, shown)
    folder = Path(where) if where is not None else None
    if folder is None or folder.is_file():
        return LabSession(load_process_settings(folder), shown)
    if not folder.is_dir():
        raise LabError(f"{folder}: no such settings file or data directory")
    for name in SETTINGS_FILE_NAMES:
        if (folder / name).is_file():
            return LabSession(load_process_settings(folder / name), shown)
    folder = folder.absolute()
    model = next((path for path in (folder / "model", folder.parent / "model") if path.is_dir()), folder / "model")
    return LabSession(Settings(data_dir=folder, model_dir=model), shown)


def open_read_only_store(settings: Settings) -> SqlStore:
    """Open the store of the settings read-only. Raises LabError if it does not exist, Unavailable."""
    address = store_address(settings)
    if not address.may_exist:
        raise LabError(
            f"{address.file}: no store. Name the settings file of a service that has run "
            '(open_session("/path/settings.yaml"), '
            "or TRUSTWATCH_SETTINGS), or begin with the example: `make notebooks`"
        )
    return open_service_store_reading(settings)
