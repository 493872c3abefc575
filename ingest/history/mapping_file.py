"""Mappings in files of their own: YAML or JSON with what settings have under `mapping`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..errors import ConfigError
from ..formats.record_mapping import MappingSpec, check_member_names
from ..settings_reading import error_hint, read_yaml


def read_mapping(path: Path) -> MappingSpec:
    """Read a mapping; its expressions are not compiled yet. Raises ConfigError, which names file and member."""
    raw = read_yaml(path)
    if set(raw) == {"mapping"}:
        raw = raw["mapping"]
    try:
        spec = msgspec.convert(raw, MappingSpec)
        check_member_names(spec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}{error_hint(MappingSpec, str(error))}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return spec
