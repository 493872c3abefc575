"""Reading of settings files, and descriptions of members for error messages and docs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec.structs import FieldInfo

from .errors import ConfigError
from .settings import AFTER_KEY, BEFORE_KEY

MAX_FILE_BYTES = 8 * 1024 * 1024

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml
_MERGE = "tag:yaml.org,2002:merge"
_WRONG_YAML = (yaml.YAMLError, ValueError, LookupError, RecursionError)
"""Errors of PyYAML: of syntax, of a date that does not exist or text that is not UTF-8, of a tag with a wrong value."""
_PATH_STEP = re.compile(r"\.(\w+)|(\[[^\]]*\])")
_ERROR_PATH = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_MISSING_FIELD = re.compile(r"missing required field `(\w+)`")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; empty is an empty one. Raises ConfigError, which quotes nothing of the file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    raw = decode_yaml(text, str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of settings - at `$`")
    return raw


def decode_yaml(text: bytes | str, source: str) -> Any:
    """Value of a YAML document, None of an empty one. Raises ConfigError."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_names(node, source)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _WRONG_YAML as error:
        raise ConfigError(f"{source}: is not YAML{_error_position(error)}") from None


def _check_names(root: yaml.Node, source: str) -> None:
    """Refuse a name that stands twice in one mapping. Before merges (`<<`), whose names others may replace."""
    waiting: list[yaml.Node] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            _check_mapping(node, source)
            waiting += [part for pair in node.value for part in pair]


def _check_mapping(node: yaml.MappingNode, source: str) -> None:
    lines: dict[tuple[str, str], int] = {}
    for name, _ in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.tag == _MERGE:
            continue
        line = name.start_mark.line + 1
        if (before := lines.get((name.tag, name.value))) is not None:
            raise ConfigError(
                f"{source}: a name stands twice in one mapping, in lines {before} and {line}; the first would be lost: "
                "put the two together"
            )
        lines[name.tag, name.value] = line


def _error_position(error: BaseException) -> str:
    """Line and column of a syntax error. Not the message: it quotes the line, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


def error_path(message: str) -> str:
    """The member that an error *message* names, such as `.listen.port`; "" for the whole of the settings."""
    at = _ERROR_PATH.search(message)
    return at.group(1) if at else ""


def error_hint(root: type, message: str) -> str:
    """Hint on valid values of the setting that an error *message* names; empty for a setting that is not declared."""
    part, text = _find_member(root, error_path(message))
    if "unknown field" in message and _is_struct(part):
        hints = get_type_hints(part, include_extras=True)
        return "; may have " + ", ".join(f"`{field.name}`" for field in documented_fields(part, hints))
    missing = _MISSING_FIELD.search(message)
    if missing and _is_struct(part):
        part, text = _find_member(part, f".{missing.group(1)}")
    allowed = literal_choices(part)
    one_of = f"; one of {', '.join(allowed)}" if allowed else ""
    return one_of + (f" ({text})" if text else "")


def _find_member(root: Any, path: str) -> tuple[Any, str]:
    """Type and meaning of the member at *path* below *root*; (None, "") if there is none."""
    here, text = root, ""
    for name, index in _PATH_STEP.findall(path):
        here, _ = element_type(here) if index else (here, "")
        if name and not _is_struct(here):
            return None, ""
        if name:
            annotation = get_type_hints(here, include_extras=True).get(name)
            here, text = without_annotation(annotation)
    return without_none(here), text


def documented_fields(part: type, hints: Mapping[str, Any]) -> list[FieldInfo]:
    """Members of *part* in the order in which people read them: as declared, but for those with `after` or `before`."""
    ordered: list[FieldInfo] = []
    for field in msgspec.structs.fields(part):
        after, before = (_neighbour(hints[field.name], key) for key in (AFTER_KEY, BEFORE_KEY))
        names = [earlier.name for earlier in ordered]
        index = names.index(after) + 1 if after else names.index(before) if before else len(ordered)
        ordered.insert(index, field)
    return ordered


def _neighbour(annotation: Any, key: str) -> str:
    """The member that one with this annotation stands behind or before, by *key*; "" if nothing is said."""
    metas = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((meta.extra[key] for meta in metas if key in (getattr(meta, "extra", None) or {})), "")


def literal_choices(kind: Any) -> list[str]:
    """Texts that a member of a `Literal`, or a list or mapping of them, may hold; [] if it is none."""
    element = element_type(kind)[0]
    return [str(arg) for arg in get_args(element)] if get_origin(element) is Literal else []


def element_type(kind: Any) -> tuple[Any, str]:
    """Element type of a list or mapping, and the suffix of its path; any other type with an empty suffix."""
    kind = without_none(kind)
    if get_origin(kind) is tuple:
        return without_annotation(get_args(kind)[0])[0], "[]"
    if hasattr(get_origin(kind), "keys"):
        return without_annotation(get_args(kind)[1])[0], ".NAME"
    return kind, ""


def without_none(kind: Any) -> Any:
    """The type other than `None`, without its annotation."""
    kind = without_annotation(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return without_annotation(next(arg for arg in get_args(kind) if arg is not type(None)))[0]
    return kind


def without_annotation(annotation: Any) -> tuple[Any, str]:
    """The type inside `Annotated`, and the description of the outermost."""
    text = ""
    while get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        text = next((meta.description for meta in reversed(metas) if getattr(meta, "description", None)), text)
    return annotation, text


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
