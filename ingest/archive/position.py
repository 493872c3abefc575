"""How far an archive goes."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import CorruptLog

POSITION = "_position.json"


def read_position(directory: Path) -> int | None:
    """Offset up to which the log is archived; None before the first range.

    Raises:
        CorruptLog: the file is none of ours; nothing says then what is archived.
    """
    try:
        found = json.loads((directory / POSITION).read_bytes())
        return int(found["offset"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise CorruptLog(
            f"{directory / POSITION}: does not say up to which offset the archive goes; restore it, or move the "
            "archive away to begin a new one"
        ) from None
