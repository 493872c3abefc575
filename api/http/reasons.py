"""Reasons that people give for what they do: kept, and shown to whoever asks later."""

from __future__ import annotations

from typing import Final

from .problems import invalid_value_error

MAX_REASON_LENGTH: Final = 2_048


def check_reason(member: str, reason: str, *, required: bool = True, kept_with: str = "the decision") -> None:
    """Raise ProblemError (422) for a reason that is too long, or missing where one is required."""
    if required and not reason.strip():
        raise invalid_value_error(member, f"is empty; say why: it is kept with {kept_with}")
    if len(reason) > MAX_REASON_LENGTH:
        raise invalid_value_error(member, f"has more than {MAX_REASON_LENGTH} characters")
