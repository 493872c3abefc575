"""Settings that a release removed, and what happens to files and variables that still name one.

A value that is the old default changes nothing, so it is left out with a warning. Any other value ends the start, with
the line of the changelog that names the replacement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from trustwatch.ingest.errors import ConfigError


class RemovedSetting(NamedTuple):
    """A setting of an earlier release.

    Attributes:
        default: that it had, as a settings file would hold it; of a part, a mapping of the defaults of its members.
        line: names the replacement; CHANGELOG.md has it word for word.
    """

    default: Any
    line: str


REMOVED_SETTINGS: Final[Mapping[str, RemovedSetting]] = {
    "webhooks[].slack_app": RemovedSetting(
        None,
        "use the `url` of an incoming webhook of Slack; if the console is on, its messages link to the case, where "
        "people act once they are signed in",
    ),
    "traces": RemovedSetting(
        {"endpoint": None, "sample_ratio": 0.1, "headers": {}, "service_name": "trustwatch"},
        "use the standard variables of OpenTelemetry (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and others) "
        "for spans of requests, and the metrics of the pipeline and of deliveries for other work",
    ),
}
"""Removed settings by path, as `reference/settings.md` would write it: `kafka.topics[].name`, `tenants.NAME.mode`. If
all of a part was removed, the part has the row."""

_INDEX = re.compile(r"\[\d+\]")


def is_removed(place: str) -> bool:
    """True if the member at *place*, as messages write it (`.webhooks[0].url`), was removed."""
    path = _INDEX.sub("[]", place).replace("[...]", ".NAME").removeprefix(".")
    return path in REMOVED_SETTINGS


def leave_out_removed(raw: dict[str, Any], origin: Callable[[str], str]) -> list[str]:
    """Take removed settings out of what a file and variables hold; returns a warning for each.

    Args:
        raw: changed in place.
        origin: names the file or variable that a message is about.

    Raises:
        ConfigError: one does not hold its old default.
    """
    warnings = []
    for path, removed in REMOVED_SETTINGS.items():
        for part, place in _parts_with(raw, path.replace("[]", ".[]").split(".")):
            is_default = _is_default(part.pop(path.rpartition(".")[2]), removed.default)
            what = "delete this setting, which was removed" if is_default else "this setting was removed"
            message = f"{what}: {removed.line} - at `${place}`"
            if not is_default:
                raise ConfigError(f"{origin(message)}: {message}")
            warnings.append(f"{origin(message)}: {message}")
    return warnings


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
    """True if *value* says what holds anyway: a part may name some of its members alone."""
    if isinstance(value, dict) and isinstance(default, dict):
        return all(name in default and _is_default(held, default[name]) for name, held in value.items())
    return bool(value == default)
