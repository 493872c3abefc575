"""How far an archive goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CorruptLog
from .files import write_file_atomically

POSITION_FILE = "_position.json"


def read_position(directory: Path) -> int | None:
    """Offset up to which the embedded log is archived; None before the first range, and in the archive of a topic.

    Raises:
        CorruptLog: the file is none of ours; nothing says then what is archived.
    """
    of, offsets = _read_position_file(directory) or ("", {})
    return None if of else offsets.get(0)


def read_positions(directory: Path, topic: str | None = None) -> dict[int, int] | None:
    """Offset by partition up to which the log is archived; None before the first range.

    Args:
        directory: of the archive.
        topic: which the archive must be of: "" is the embedded log; None = whichever.

    Raises:
        CorruptLog: the file is none of ours, or the archive is one of another log.
    """
    found = _read_position_file(directory)
    if found is None:
        return None
    of, offsets = found
    if topic is not None and of != topic:
        raise CorruptLog(
            f"{directory / POSITION_FILE}: the archive is of {_log_name(of)}, not of {_log_name(topic)}; "
            "offsets of one say nothing of the other: name another folder, or move the archive away"
        )
    return offsets


def _read_position_file(directory: Path) -> tuple[str, dict[int, int]] | None:
    """Topic, "" for the embedded log, and offsets by partition."""
    path = directory / POSITION_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        of = str(found.get("topic", ""))
        return of, {int(name): int(at) for name, at in found["offsets"].items()} if of else {0: int(found["offset"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptLog(
            f"{path}: does not say up to which offset the archive goes; restore it, or move the archive away to "
            "begin a new one"
        ) from None


def write_positions(directory: Path, topic: str, offsets: Mapping[int, int]) -> None:
    """Say up to where the log is archived, in one atomic step."""
    told: dict[str, Any] = {"topic": topic, "offsets": {str(at): offset for at, offset in sorted(offsets.items())}}
    if not topic:
        told = {"offset": offsets[0]}
    write_file_atomically(directory / POSITION_FILE, lambda file: file.write(json.dumps(told).encode()))


def _log_name(topic: str) -> str:
    return f"the topic {topic}" if topic else "an embedded log"
