"""Trials of a mapping, in words for whoever writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.mapping_trial import RecordTrial, try_records
from trustwatch.ingest.formats.record_mapping import MultiKindParser, RecordMapping
from trustwatch.ingest.history.conversion import FormattedFile

MAX_SHOWN_VALUE, MAX_SHOWN_EXPRESSION = 60, 70  # Characters of a value, and of an expression


def mapping_trials(formatted: FormattedFile) -> Iterator[RecordTrial]:
    """Try the mapping of a file's format on each of its records. Raises ConfigError: its format has no mapping."""
    parser = formatted.parser
    if not isinstance(parser, RecordMapping | MultiKindParser):
        raise ConfigError(f"{formatted.file.name}: records of the format `{formatted.format_name}` need no mapping")
    for record in formatted.file.records():
        if isinstance(record, MalformedEvent):
            yield RecordTrial(None, [], None, str(record))
            continue
        try:
            yield from try_records(parser, record)
        except MalformedEvent as error:
            yield RecordTrial(None, [], None, str(error))


def describe_trial(title: str, trial: RecordTrial) -> Iterator[str]:
    """One record in lines: what became of it, each member with its expression, and what was not used."""
    state = "an event" if trial.event is not None else f"{'skipped' if trial.skipped else 'refused'}: {trial.reason}"
    yield f"{title}: {state}"
    for member in trial.members:
        source = f"<- {_shortened(member.expression, MAX_SHOWN_EXPRESSION)}"
        if member.problem is not None:
            yield f"  ! {member.name:24} {member.problem}  {source}"
        elif member.value is not None:
            yield f"    {member.name:24} {_shortened(str(member.value), MAX_SHOWN_VALUE)}  {source}"
    absent = [member.name for member in trial.members if member.value is None and member.problem is None]
    for what, names in (("no value", absent), ("not read", _unread_names(trial))):
        if names:
            yield f"    {what}: {', '.join(names)}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _unread_names(trial: RecordTrial) -> list[str]:
    """Members of the record that no expression names."""
    named = set(re.findall(r'"[^"]+"|\w+', " ".join(member.expression for member in trial.members)))
    return [name for name in trial.record or () if trial.members and not {name, f'"{name}"'} & named]


def trial_as_json(number: int, trial: RecordTrial) -> dict[str, Any]:
    """One record as a JSON value."""
    return {
        "record": number,
        "state": "event" if trial.event is not None else "skipped" if trial.skipped else "refused",
        "reason": trial.reason,
        "members": [member._asdict() for member in trial.members],
        "unread": _unread_names(trial),
        "event": None if trial.event is None else msgspec.json.decode(trial.event),
    }
