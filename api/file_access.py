"""Access to the files that we write: an environment variable controls who may read, for every process and command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from trustwatch.ingest.errors import ConfigError

FILE_ACCESS: Final = "TRUSTWATCH_FILE_ACCESS"
"""Variable that controls who may read what we write: `owner` (the default) or `group`."""

CLOSED_BITS: Final[Mapping[str, int]] = {"owner": 0o077, "group": 0o027}
"""Mode bits that our files must not have, by the value of the variable."""


def restrict_new_files(environ: Mapping[str, str] = os.environ) -> None:
    """Close everything that this process and its children create to other users from the start.

    Raises ConfigError if the variable holds something else.
    """
    os.umask(closed_bits(environ))


def closed_bits(environ: Mapping[str, str]) -> int:
    """Return the mode bits that our files must not have. Raises ConfigError."""
    access = environ.get(FILE_ACCESS) or "owner"
    if access not in CLOSED_BITS:
        raise ConfigError(f"{FILE_ACCESS}: expected `owner` or `group`, found {access!r}")
    return CLOSED_BITS[access]
