"""Reads the settings: the file, then the variables, then one typed conversion. Every failure is a ConfigError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.settings_reading import (
    decode_yaml,
    element_type,
    error_hint,
    error_path,
    literal_choices,
    read_yaml,
    without_annotation,
    without_none,
)

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
    """A variable that is set, and the member that it sets."""

    name: str
    path: tuple[str | int, ...]  # of the member: names, and indexes in lists
    place: str  # the path in messages, such as `.tenants[...].mode`
    value: Any  # as in a settings file


def set_variables(environ: Mapping[str, str]) -> list[SetVariable]:
    """Every variable that sets a member, parts before what they hold; an empty one sets nothing.

    Raises ConfigError: the member does not exist, or the value is invalid.
    """
    named = {name: path for name, path in SHORT_NAMES.items() if environ.get(name)}
    named |= {name: tuple(name.removeprefix(PREFIX).split(SEPARATOR)) for name in environ if name.startswith(PREFIX)}
    given = sorted((name for name in named if environ[name]), key=lambda name: _order(name, named[name]))
    return [_find_member(name, named[name], environ[name]) for name in given]


def _order(name: str, steps: Iterable[str]) -> tuple[bool, list[tuple[int, str]]]:
    """Sort key: long names win over short ones; entries of a list keep their order."""
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
    """The value of a member without a type: as YAML parses it, else the text."""
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
        raise ConfigError(f"{name}: this member has no members, found `{member}` - at `${place}`")
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
    """Return the reader of values of this type, or None if they are not texts."""
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

    If the file has another value in place of a part, it stays, and the check of types reports it.
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


# Settings that a release removed. A value that is the old default changes nothing, so it is left out with a warning.
# Any other value ends the start, with the line of the changelog that names the replacement.


class RemovedSetting(NamedTuple):
    """A setting of an earlier release."""

    default: Any  # as in a settings file; of a part, a mapping of the defaults of its members
    line: str  # names the replacement, as in CHANGELOG.md; several settings may share one


class _RemovedTogether(msgspec.Struct):
    line: str
    defaults: dict[str, Any]


def _read_table() -> dict[str, RemovedSetting]:
    table = files(__package__).joinpath("removed_settings.yaml").read_bytes()
    rows = msgspec.yaml.decode(table, type=list[_RemovedTogether])
    return {path: RemovedSetting(default, row.line) for row in rows for path, default in row.defaults.items()}


REMOVED_SETTINGS: Final[Mapping[str, RemovedSetting]] = _read_table()
"""Removed settings by path, as `reference/settings.md` would write it: `kafka.topics[].name`, `tenants.NAME.mode`."""

_INDEX = re.compile(r"\[\d+\]")


def is_removed(place: str) -> bool:
    """True if the member at *place*, as messages write it (`.webhooks[0].url`), was removed."""
    path = _INDEX.sub("[]", place).replace("[...]", ".NAME").removeprefix(".")
    return path in REMOVED_SETTINGS


def leave_out_removed(raw: dict[str, Any], origin: Callable[[str], str]) -> list[str]:
    """Remove settings of earlier releases from the values of file and variables; returns a warning for each line.

    Raises:
        ConfigError: one does not hold its old default.
    """
    kept: dict[tuple[str, str], list[str]] = {}
    for path, removed in REMOVED_SETTINGS.items():
        for part, place in _parts_with(raw, path.replace("[]", ".[]").split(".")):
            message = f"this setting was removed: {removed.line} - at `${place}`"
            if not _is_default(part.pop(path.rpartition(".")[2]), removed.default):
                raise ConfigError(f"{origin(message)}: {message}")
            kept.setdefault((origin(message), removed.line), []).append(f"`${place}`")
    return [
        f"{where}: delete what was removed: {line} - at {', '.join(places)}" for (where, line), places in kept.items()
    ]


def _parts_with(held: Any, steps: Sequence[str], place: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Parts that have the member to which *steps* lead, and the place of that member in each."""
    step, *further = steps
    inner: list[tuple[str, Any]] = []
    if step == "[]" and isinstance(held, list):
        inner = [(f"{place}[{index}]", entry) for index, entry in enumerate(held)]
    elif step == "NAME" and isinstance(held, dict):
        inner = [(f"{place}[...]", entry) for entry in held.values()]
    elif isinstance(held, dict) and step in held:
        inner = [(f"{place}.{step}", held[step])]
        if not further:
            yield held, inner[0][0]
            return
    for inner_place, entry in inner:
        yield from _parts_with(entry, further, inner_place)


def _is_default(value: Any, default: Any) -> bool:
    """Return whether *value* is the old default; a part may name only some of its members."""
    if isinstance(value, dict) and isinstance(default, dict):
        return all(name in default and _is_default(held, default[name]) for name, held in value.items())
    return bool(value == default)


SETTINGS_FILE = "TRUSTWATCH_SETTINGS"
"""Names the settings file if no path is given."""


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
    """Settings, and warnings about them."""

    settings: Settings
    removed: list[str]  # about removed settings that still have their old defaults

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
    """Return the secret of *value*: itself, `{env: NAME}` or `{file: PATH}`. Messages never quote *value*."""
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
        raise ValueError(f"the file {path} cannot be read") from None
    if not text:
        raise ValueError(f"the file {path} is empty")
    return text
