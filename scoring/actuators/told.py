"""What of an answer of a server may be shown to operators."""

from __future__ import annotations

import httpx

MAX_DETAIL_CHARS = 160
_ERROR_MEMBERS = ("error", "error_description", "errorMessage")


def error_detail(answer: httpx.Response) -> str:
    """`: ` and the error that the answer names, on one line; "" where it names none. Never anything else of the body:
    representations of clients hold secrets."""
    try:
        body = answer.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    texts = [body[name] for name in _ERROR_MEMBERS if isinstance(body.get(name), str) and body[name]]
    line = " ".join("".join(char if char.isprintable() else " " for char in ": ".join(texts)).split())
    return f": {line[:MAX_DETAIL_CHARS]}" if line else ""
