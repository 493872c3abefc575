"""Members of the settings by variables of the environment: `TRUSTWATCH__` and the path, and short names for some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.settings_reading import (
    decode_yaml,
    element_type,
    error_hint,
    error_path,
    literal_choices,
    without_annotation,
    without_none,
)

from .removed import is_removed
from .root import Settings

PREFIX = "TRUSTWATCH__"
SEPARATOR = "__"

SHORT_NAMES: Mapping[str, tuple[str, ...]] = {
    "TRUSTWATCH_DATA_DIR": ("data_dir",),
    "TRUSTWATCH_MODEL_DIR": ("model_dir",),
    "TRUSTWATCH_LISTEN_HOST": ("listen", "host"),
    "TRUSTWATCH_LISTEN_PORT": ("listen", "port"),
    "TRUSTWATCH_STORE_URL": ("store", "url"),
    "TRUSTWATCH_KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
}
"""Short names of some members. Not `TRUSTWATCH_PORT`: Kubernetes sets that for a service named trustwatch."""

HOW_TO_NAME_BROKERS = "set kafka.bootstrap_servers or TRUSTWATCH_KAFKA_BOOTSTRAP_SERVERS"
"""Advice, for messages."""


class SetVariable(NamedTuple):
    """A variable that is set, and the member that it sets.

    Attributes:
        path: of the member: names, and numbers of places in lists.
        place: the path as messages write it, such as `.tenants[...].mode`.
        value: as a settings file would hold it.
    """

    name: str
    path: tuple[str | int, ...]
    place: str
    value: Any


def set_variables(environ: Mapping[str, str]) -> list[SetVariable]:
    """Every variable that sets a member, parts before what they hold; an empty one sets nothing.

    Raises ConfigError: there is no such member, or the value can not be read.
    """
    named = {name: path for name, path in SHORT_NAMES.items() if environ.get(name)}
    named |= {name: tuple(name.removeprefix(PREFIX).split(SEPARATOR)) for name in environ if name.startswith(PREFIX)}
    given = sorted((name for name in named if environ[name]), key=lambda name: _order(name, named[name]))
    return [_find_member(name, named[name], environ[name]) for name in given]


def _order(name: str, steps: Iterable[str]) -> tuple[bool, list[tuple[int, str]]]:
    """Long names win over short ones; entries of a list stand in its order."""
    return name.startswith(PREFIX), [(int(step) if _is_index(step) else 0, step) for step in steps]


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdigit()


def _find_member(name: str, steps: tuple[str, ...], text: str) -> SetVariable:
    """Go from part to part, as the declarations have them."""
    kind: Any = Settings
    path: list[str | int] = []
    place = ""
    for index, step in enumerate(steps):
        inner = without_none(kind)
        element, suffix = element_type(inner)
        if suffix == ".NAME" and step:
            path.append(step.lower() if literal_choices(get_args(inner)[0]) else step)
            place, kind = f"{place}[...]", element
        elif suffix == "[]":
            path.append(_index(name, step, place))
            place, kind = f"{place}[{step}]", element
        else:
            member = step.lower()
            path.append(member)
            if is_removed(f"{place}.{member}"):
                path += [int(below) if _is_index(below) else below.lower() for below in steps[index + 1 :]]
                return SetVariable(name, tuple(path), f"{place}.{member}", _read_undeclared(name, text))
            kind = _member_kind(name, inner, member, place)
            place = f"{place}.{member}"
    return SetVariable(name, tuple(path), place, _read(name, kind, text))


def _read_undeclared(name: str, text: str) -> Any:
    """The value of a member without a type: as YAML has it, else the text."""
    try:
        return decode_yaml(text, name)
    except ConfigError:
        return text


def _index(name: str, step: str, place: str) -> int:
    if not _is_index(step):
        raise ConfigError(f"{name}: expected the number of an entry, from 0, found `{step}` - at `${place}`")
    return int(step)


def _member_kind(name: str, part: Any, member: str, place: str) -> Any:
    if not (isinstance(part, type) and issubclass(part, msgspec.Struct)):
        raise ConfigError(f"{name}: this member has no members of its own, found `{member}` - at `${place}`")
    hints = get_type_hints(part, include_extras=True)
    if member not in hints:
        problem = f"Object contains unknown field `{member}`" + (f" - at `${place}`" if place else "")
        raise ConfigError(f"{name}: {problem}{error_hint(Settings, problem)}")
    return hints[member]


def _read(name: str, kind: Any, text: str) -> Any:
    """The value as a settings file would hold it: texts as they are, everything else in YAML's words."""
    inner = without_none(kind)
    if text == "null" and without_annotation(kind)[0] is not inner:
        return None
    element, suffix = element_type(inner)
    read_text = _text_reader(element)
    if suffix == "[]" and read_text is not None and not text.startswith("["):
        return [read_text(part.strip()) for part in text.split(",") if part.strip()]
    if suffix or read_text is None or (inner is Secret and text.startswith("{")):
        return decode_yaml(text, name)
    return read_text(text)


def _text_reader(kind: Any) -> Callable[[str], str] | None:
    """Reader of values of this type from a text; None: it is none."""
    if get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)):
        return str
    return _TEXTS.get(kind)


def _absolute(text: str) -> str:
    """A path of the environment counts from the working folder."""
    return str(Path(text).expanduser().absolute())


_TEXTS: Mapping[Any, Callable[[str], str]] = {str: str, Secret: str, Path: _absolute}
"""Types whose values are texts, and how each is read."""


def apply_variables(raw: dict[str, Any], variables: Iterable[SetVariable]) -> None:
    """Set members in what a settings file holds. Raises ConfigError: an entry of a list is left out.

    Where the file has no part but something else, it stays: the check of types says so.
    """
    for variable in variables:
        held: Any = raw
        for step, following in zip(variable.path, (*variable.path[1:], None), strict=True):
            if not isinstance(held, list if isinstance(step, int) else dict):
                break
            if isinstance(step, int) and step > len(held):
                raise ConfigError(
                    f"{variable.name}: entry {len(held)} is the next of this list, not {step} - at `${variable.place}`"
                )
            value = variable.value if following is None else _present(held, step)
            if value is None and following is not None:
                value = [] if isinstance(following, int) else {}
            _put(held, step, value)
            held = value


def _present(held: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return held[step] if step < len(held) else None
    return held.get(step)


def _put(held: Any, step: str | int, value: Any) -> None:
    if isinstance(step, int) and step == len(held):
        held.append(value)
    else:
        held[step] = value


def origin_of_error(message: str, file: str, variables: Iterable[SetVariable]) -> str:
    """Whose value a message on a wrong member means: the variable's, or the file's with variables that go into it."""
    place = error_path(message)
    below = []
    for variable in variables:
        if place == variable.place or place.startswith((f"{variable.place}.", f"{variable.place}[")):
            return variable.name
        if place and variable.place.startswith((f"{place}.", f"{place}[")):
            below.append(variable.name)
    return f"{file} with {', '.join(below)}" if below else file
