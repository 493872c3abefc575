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

    def order(name: str) -> tuple[bool, list[tuple[int, str]]]:  # long names win; entries of a list keep their order
        return name.startswith(PREFIX), [(int(step) if _is_index(step) else 0, step) for step in named[name]]

    given = sorted((name for name in named if environ[name]), key=order)
    return [_find_member(name, named[name], environ[name]) for name in given]


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
                try:
                    value = decode_yaml(text, name)
                except ConfigError:
                    value = text
                return SetVariable(name, tuple(path), f"{place}.{member}", value)
            kind = _member_kind(name, inner, member, place)
            place = f"{place}.{member}"
    return SetVariable(name, tuple(path), place, _read(name, kind, text))


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
    """Return the value as a settings file would hold it: texts as they are, everything else as YAML."""
    inner = without_none(kind)
    if text == "null" and without_annotation(kind)[0] is not inner:
        return None
    element, suffix = element_type(inner)
    is_word = get_origin(element) is Literal and all(isinstance(word, str) for word in get_args(element))
    read_text = str if is_word else _TEXTS.get(element)  # None: its values are not texts
    if suffix == "[]" and read_text is not None and not text.startswith("["):
        return [read_text(part.strip()) for part in text.split(",") if part.strip()]
    if suffix or read_text is None or (inner is Secret and text.startswith("{")):
        return decode_yaml(text, name)
    return read_text(text)


_TEXTS: Mapping[Any, Callable[[str], str]] = {
    str: str,
    Secret: str,
    Path: lambda text: str(Path(text).expanduser().absolute()),  # relative to the working folder
}
"""Types whose values are texts, and how each is read."""


def apply_variables(raw: dict[str, Any], variables: Iterable[SetVariable]) -> None:
    """Set members in what a settings file holds. Raises ConfigError: an entry of a list is left out.

    If the file has another value in place of a part, it stays, and the check of types reports it.
    """
    for variable in variables:
        held: Any = raw
        for step, following in zip(variable.path, (*variable.path[1:], None), strict=True):
            kind: Any = list if isinstance(step, int) else dict
            if not isinstance(held, kind):
                break
            if not isinstance(step, int):
                held.setdefault(step, None)
            elif step == len(held):
                held.append(None)
            elif step > len(held):
                raise ConfigError(
                    f"{variable.name}: entry {len(held)} is the next of this list, not {step} - at `${variable.place}`"
                )
            if following is None:
                held[step] = variable.value
            elif held[step] is None:
                held[step] = [] if isinstance(following, int) else {}
            held = held[step]


def origin_of_error(message: str, file: str, variables: Iterable[SetVariable]) -> str:
    """Return whose value a message about an invalid member means: a variable, or the file with variables below it."""
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


REMOVED_SETTINGS: Final[Mapping[str, RemovedSetting]] = {
    path: RemovedSetting(default, row["line"])
    for row in msgspec.yaml.decode(files(__package__).joinpath("removed_settings.yaml").read_bytes())
    for path, default in row["defaults"].items()
}
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
    """Load the settings with the environment of this process."""
    return read_settings(path).settings


def environment_with(path: Path | None) -> dict[str, str]:
    """Return the environment of this process, for one that is to use the settings file *path*; None changes nothing."""
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


def read_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> ReadSettings:
    """Like `load_settings`, with warnings."""
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
            path = _resolve_path(name, base)
            try:
                text = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise ValueError(f"the file {path} cannot be read") from None
            if not text:
                raise ValueError(f"the file {path} is empty")
            return text
    raise ValueError("Expected `{env: NAME}`, `{file: PATH}` or a text")
