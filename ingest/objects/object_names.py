"""Names of objects: the few signs that file systems, S3, Google and Azure all take as they are."""

from __future__ import annotations

import re
from typing import Final

MOST_SIGNS_OF_NAME: Final = 700
"""S3 allows 1,024 bytes, the prefix of the store included."""
MOST_SIGNS_OF_PART: Final = 200
"""File systems allow 255 bytes."""

_PART = r"[a-z0-9_-][a-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}(?:/{_PART})*/?)?")


def is_object_name(text: str) -> bool:
    """Tell whether *text* is the name of an object: a to z, 0 to 9, ".", "_", "-", and "/" between parts.

    A part begins with no dot, so that hidden files are never objects, and holds no "..".
    """
    parts = text.split("/")
    fits = len(text) <= MOST_SIGNS_OF_NAME and max(map(len, parts)) <= MOST_SIGNS_OF_PART
    return fits and ".." not in text and _NAME.fullmatch(text) is not None


def check_object_name(name: str) -> str:
    """Give *name* back. Raises ValueError: no name of an object."""
    if not is_object_name(name):
        raise ValueError(f'{name!r} is no name of an object: a-z 0-9 . _ - and "/" between parts, none begins with "."')
    return name


def check_prefix(prefix: str) -> str:
    """Give back what names may begin with, "" for all. Raises ValueError: no name begins so."""
    if ".." in prefix or len(prefix) > MOST_SIGNS_OF_NAME or _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"{prefix!r}: no name of an object begins so")
    return prefix
