"""One-time links of the development login: a code that a person on this machine is shown, good for one sign-in.

The code itself is nowhere on disk, only its hash, as the name of a file that whoever uses it first removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import Path

LINKS_FOLDER = "console-links"
LINK_VALID_S = 86_400.0


def issue_login_code(data_dir: Path, now_s: float) -> str:
    """A code that signs in once within a day. Raises OSError."""
    folder = data_dir / LINKS_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _expired(old, now_s):
            old.unlink(missing_ok=True)
    code = secrets.token_urlsafe(18)
    file = folder / _file_name(code)
    file.touch(mode=0o600)
    file.write_text(str(now_s + LINK_VALID_S))
    return code


def redeem_login_code(data_dir: Path, code: str, now_s: float) -> bool:
    """True if *code* may sign in now; it is used up then."""
    file = data_dir / LINKS_FOLDER / _file_name(code)
    if _expired(file, now_s):
        return False
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
        return True
    return False


def _file_name(code: str) -> str:
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()


def _expired(file: Path, now_s: float) -> bool:
    try:
        return float(file.read_text()) <= now_s
    except (OSError, ValueError):
        return True
