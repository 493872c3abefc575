"""The effective settings as YAML, and a JSON Schema of the settings file for editors."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from trustwatch.ingest.settings import Secret

from .root import Settings

_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SECRET_IN_URL = re.compile(r"(://)[^/\s?#]*(?=@)|([?&#][^=&#\s]*=)[^&#\s]+")
"""Parts of a URL that may be a secret: user info, and the values of query and fragment."""
_NAME_OR_PATH = {"type": "string", "minLength": 1}


def settings_yaml(settings: Settings) -> str:
    """The effective settings as YAML: secrets are `***`, including those in URLs."""
    return msgspec.yaml.encode(_without_secrets(msgspec.to_builtins(settings, enc_hook=str))).decode()


def _without_secrets(value: Any) -> Any:
    """
    >>> _without_secrets(["https://ann:hunter2@as.example/?sig=abc&page=2", "https://TOKEN@as.example/a", 3])
    ['https://***@as.example/?sig=***&page=***', 'https://***@as.example/a', 3]
    """
    if isinstance(value, dict):
        return {name: _without_secrets(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(below) for below in value]
    return _SECRET_IN_URL.sub(lambda found: f"{found[1] or found[2]}***", value) if isinstance(value, str) else value


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the settings file: members, types, limits, meanings and defaults."""
    schema = msgspec.json.schema(_with_plain_defaults(Settings), schema_hook=_schema_of)
    members = schema["$defs"][Settings.__name__]["properties"]
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.default, Path):
            members[field.name]["default"] = str(field.default)
    return {"$schema": _SCHEMA_DIALECT, "title": "Settings of Trustwatch", **schema}


def _with_plain_defaults(part: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same declarations without defaults that are paths: msgspec takes no hook for defaults."""
    hints = get_type_hints(part, include_extras=True)
    fields = [
        (field.name, hints[field.name], msgspec.field(default_factory=partial(Path, field.default)))
        if isinstance(field.default, Path)
        else (field.name, hints[field.name], _declared_default(field))
        for field in msgspec.structs.fields(part)
    ]
    return msgspec.defstruct(part.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _declared_default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return msgspec.field() if field.default is msgspec.NODEFAULT else msgspec.field(default=field.default)


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Path:
        return dict(_NAME_OR_PATH)
    if kind is Secret:
        kept = [
            {"type": "object", "properties": {key: _NAME_OR_PATH}, "required": [key], "additionalProperties": False}
            for key in ("env", "file")
        ]
        return {"anyOf": [*kept, dict(_NAME_OR_PATH)]}
    raise NotImplementedError(f"no schema for {kind.__name__}")
