"""Reads the settings: the file, then the variables, then one typed conversion. Every failure is a ConfigError."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.settings_reading import error_hint, read_yaml

from .environment import apply_variables, origin_of_error, set_variables
from .removed import leave_out_removed
from .root import Settings

SETTINGS_FILE = "TRUSTWATCH_SETTINGS"
"""Names the settings file where none is given."""


def load_process_settings(path: Path | None = None) -> Settings:
    """`load_settings` with the environment of this process."""
    return load_settings(path, os.environ)


def read_process_settings(path: Path | None = None) -> ReadSettings:
    """`read_settings` with the environment of this process."""
    return read_settings(path, os.environ)


def environment_with(path: Path | None) -> dict[str, str]:
    """The environment of this process, for one that is to use the settings file *path*; None changes nothing."""
    return {**os.environ, **({} if path is None else {SETTINGS_FILE: str(path)})}


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file, set what the environment sets, check.

    Raises:
        ConfigError: names the file or the variable, the path of the wrong member and what it may be; never the value
            of a secret.
    """
    return read_settings(path, environ).settings


class ReadSettings(NamedTuple):
    """Settings, and what was noticed while they were read.

    Attributes:
        removed: warnings about removed settings that still hold their old defaults.
    """

    settings: Settings
    removed: list[str]

    @property
    def warnings(self) -> list[str]:
        """Advice on what an operator should change in the file, though the service starts."""
        return [*self.removed, *self.settings.upgrade_warnings()]


def read_settings(path: Path | None, environ: Mapping[str, str]) -> ReadSettings:
    """`load_settings`, with warnings."""
    if path is None and environ.get(SETTINGS_FILE):
        path = Path(environ[SETTINGS_FILE])
    raw = {} if path is None else read_yaml(path)
    base = Path.cwd() if path is None else path.absolute().parent
    variables = set_variables(environ)
    apply_variables(raw, variables)
    origin = partial(origin_of_error, file="settings" if path is None else str(path), variables=variables)
    removed = leave_out_removed(raw, origin)
    try:
        settings = msgspec.convert(raw, Settings, dec_hook=_decoder(base, environ))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin(str(error))}: {error}{error_hint(Settings, str(error))}") from None
    settings = msgspec.structs.replace(settings, data_dir=base / settings.data_dir, model_dir=base / settings.model_dir)
    return ReadSettings(settings, removed)


def _decoder(base: Path, environ: Mapping[str, str]) -> Callable[[type, Any], Any]:
    def decode(kind: type, value: Any) -> Any:
        if kind is Path:
            return _resolve_path(value, base)
        if kind is Secret:
            return Secret(_resolve_secret(value, base, environ))
        raise NotImplementedError(f"no decoder for {kind.__name__}")

    return decode


def _resolve_path(value: Any, base: Path) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("Expected a path")
    return base / Path(value).expanduser()


def _resolve_secret(value: Any, base: Path, environ: Mapping[str, str]) -> str:
    """The secret that *value* stands for: itself, `{env: NAME}` or `{file: PATH}`. Messages never quote *value*."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and len(value) == 1:
        (kind, name), *_ = value.items()
        if kind == "env" and isinstance(name, str):
            if not environ.get(name):
                raise ValueError(f"the environment variable {name} is not set")
            return environ[name]
        if kind == "file" and isinstance(name, str):
            return _read_secret_file(_resolve_path(name, base))
    raise ValueError("Expected `{env: NAME}`, `{file: PATH}` or a text")


def _read_secret_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the file {path} can not be read") from None
    if not text:
        raise ValueError(f"the file {path} is empty")
    return text
