"""A session on the data of a service: its settings, store and models, opened to be read.

The bottom of the lab: the functions of `frames` take a session, and nothing here needs pandas.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
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
from trustwatch.ingest.hashing import NameHasher
from trustwatch.models.detector import ForestDetector
from trustwatch.models.model_directory import is_model
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.learning.budget_check import BudgetReport
from trustwatch.scoring.records.agents import AgentSummary
from trustwatch.scoring.store.agent_store import AgentQuery
from trustwatch.scoring.store.database import MAX_PAGE, iterate_pages
from trustwatch.scoring.store.sql_store import SqlStore

SETTINGS_FILE_NAMES = ("settings.yaml", "trustwatch.yaml")

DEFAULT_ROW_LIMIT = 100_000
"""Rows of a frame by default; more are cut with a `LabWarning`."""

EXTRA_MISSING = f"trustwatch.lab needs pandas, altair and vl-convert-python: {install_line('lab')}"
_CACHED_AGENTS = 50_000


class LabError(ConfigError):
    """Missing data; the message says where it was looked for and what to do."""

    code = "lab"


class LabWarning(UserWarning):
    """An answer is right but not whole, for instance cut at a limit."""


def is_extra_installed() -> bool:
    """True if the packages for frames and charts are installed."""
    return all(find_spec(name) is not None for name in ("pandas", "altair", "vl_convert"))


def warn_incomplete(text: str, calls: int = 1) -> None:
    """Warn that an answer is not whole.

    Args:
        text: says what is missing and what to do.
        calls: functions of the lab between the analyst's line, which the warning is to point at, and this one.
    """
    warnings.warn(text, LabWarning, stacklevel=calls + 2)


@dataclass(frozen=True, eq=False)
class LabModel:
    """A model, loaded or just trained.

    Attributes:
        directory: of the model; `trustwatch serve` can be pointed at a copy of it.
        trained: the model as scoring uses it.
        settings: of the engine, for thresholds at the alert budget.
        group_names: peer groups in words, by their hash.
        budget_report: the alert budget on its own held-out history; None for a model that was not trained here.
    """

    directory: Path
    trained: TrainedModel
    settings: EngineSettings
    group_names: Mapping[int, str]
    budget_report: BudgetReport | None = None

    def __repr__(self) -> str:
        first, last = self.window
        window = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        return f"<model {self.version}: learned from {window}; {self.directory}>"

    @property
    def version(self) -> str:
        """Name that decisions carry."""
        return self.trained.version

    @property
    def window(self) -> tuple[datetime, datetime]:
        """First and last event time of its history."""
        first_ms, last_ms = self.trained.window_ms
        return datetime.fromtimestamp(first_ms / 1000, UTC), datetime.fromtimestamp(last_ms / 1000, UTC)

    @property
    def detector(self) -> ForestDetector:
        """Detector of the model: vectors in, scores out."""
        detector = self.trained.detector
        assert isinstance(detector, ForestDetector)
        return detector


class LabSession:
    """A service's store, models and events, open to be read. Use `open_session`.

    Args:
        settings: of the service.
        tenants: nothing of others is shown; None = all.
    """

    def __init__(self, settings: Settings, tenants: frozenset[str] | None = None) -> None:
        self.settings = settings
        self.tenants = tenants
        self._models: dict[Path, LabModel] = {}
        self._work_folder: tempfile.TemporaryDirectory[str] | None = None
        self._work_paths: Counter[str] = Counter()

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
        """The service's store, opened on first use. Raises LabError where there is none, Unavailable."""
        return open_read_only_store(self.settings)

    @property
    def engine_settings(self) -> EngineSettings:
        """Settings of the engine that events are replayed with."""
        return engine_settings(self.settings, capacity=_CACHED_AGENTS)

    def model(self, directory: str | Path | None = None) -> LabModel:
        """A model: that of the settings, or another directory's. Raises LabError where there is none."""
        path = Path(directory) if directory is not None else self.settings.model_dir
        if path not in self._models:
            self._models[path] = load_lab_model(path, self.engine_settings, self.agent_types())
        return self._models[path]

    def keep_model(self, model: LabModel) -> None:
        """Keep a model that was trained in this session, for `model` to find by its directory."""
        self._models[model.directory] = model

    def agent_summaries(self, agent_type: str | None = None) -> Iterator[AgentSummary]:
        """Agents by tenant and id."""
        store = self.store
        return iterate_pages(
            lambda cursor: store.agents.page(
                AgentQuery(tenants=self.tenants, agent_type=agent_type, limit=MAX_PAGE, cursor=cursor)
            )
        )

    def agent_types(self) -> list[tuple[str, str]]:
        """Tenants and agent types that the store knows; none where there is no store."""
        try:
            return sorted({(summary.name.tenant, summary.agent_type) for summary in self.agent_summaries()})
        except ConfigError:
            return []

    def work_path(self, stem: str, suffix: str = "") -> Path:
        """A new path in a folder that goes with the session: `stem-0`, `stem-1`, …"""
        if self._work_folder is None:
            self._work_folder = tempfile.TemporaryDirectory(prefix="trustwatch-lab-")
        number = self._work_paths[stem]
        self._work_paths[stem] += 1
        return Path(self._work_folder.name) / f"{stem}-{number}{suffix}"

    def close(self) -> None:
        """Release the store, and remove the models and files that were made meanwhile."""
        if "store" in self.__dict__:
            self.store.close()
            del self.store
        if self._work_folder is not None:
            self._work_folder.cleanup()
            self._work_folder = None
        self._models.clear()


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
    settings = where if isinstance(where, Settings) else _read_settings(None if where is None else Path(where))
    return LabSession(settings, None if tenants is None else frozenset(tenants))


def _read_settings(where: Path | None) -> Settings:
    if where is None or where.is_file():
        return load_process_settings(where)
    if not where.is_dir():
        raise LabError(f"{where}: no such settings file or data directory")
    settings_file = next((where / name for name in SETTINGS_FILE_NAMES if (where / name).is_file()), None)
    if settings_file is not None:
        return load_process_settings(settings_file)
    where = where.absolute()
    model = next((path for path in (where / "model", where.parent / "model") if path.is_dir()), where / "model")
    return Settings(data_dir=where, model_dir=model)


def open_read_only_store(settings: Settings) -> SqlStore:
    """The store of the settings, to read. Raises LabError where there is none, Unavailable."""
    address = store_address(settings)
    if not address.may_exist:
        raise LabError(
            f"{address.file}: no store. Name the settings file of a service that has run "
            '(open_session("/path/settings.yaml"), '
            "or TRUSTWATCH_SETTINGS), or begin with the example: `make notebooks`"
        )
    return open_service_store_reading(settings)


def load_lab_model(directory: Path, settings: EngineSettings, types: Iterable[tuple[str, str]]) -> LabModel:
    """The model in a directory. Raises LabError where there is none, ModelError for one that does not fit."""
    if not is_model(directory):
        raise LabError(
            f"{directory}: no model. Learn one from normal history: `trustwatch train FILES --model {directory}`, or "
            "`frames.train_model(session, frames.events(session), directory=…)`"
        )
    model = load_trained_model(directory)
    return LabModel(directory, model, settings, peer_group_names(model.salt, types))


def peer_group_names(salt: bytes, types: Iterable[tuple[str, str]]) -> dict[int, str]:
    """Hash of each peer group -> tenant and type."""
    hasher = NameHasher(salt)
    return {int(hasher(f"{tenant}\x1f{kind}")): f"{tenant} {kind}".strip() or "no type" for tenant, kind in types}
