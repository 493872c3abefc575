"""A value that may be used and never shown."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds a secret so that no `repr`, `str`, format, log line or pickle shows it.

    >>> Secret("hunter2"), f"{Secret('hunter2')}"
    (Secret('***'), '***')
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret may not be empty")
        self.__value = value

    def reveal(self) -> str:
        """The secret itself. Hand it to the one library that needs it; never keep or print it."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.__value.encode(), other.__value.encode())

    __hash__ = None  # type: ignore[assignment] # a hash would be a fingerprint of it

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")
