"""What no audit event may hold: tokens, credentials, bodies. A net for mistakes, not a classifier of data."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import ContentRefused

MAX_ATTRIBUTE_CHARACTERS = 512
"""Characters of a value among `attributes`: identifiers and labels are short, bodies are not."""
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_DEPTH = 3

_SECRET_PATTERN = re.compile(
    r"""
    \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.                # a JWT
    | \b(?:bearer|basic|dpop)\s+[A-Za-z0-9._~+/=-]{16,}        # the value of an Authorization header
    | -----BEGIN\ [A-Z\ ]*(?:PRIVATE\ KEY|CERTIFICATE)         # PEM
    | [?&\#;](?:access_token|refresh_token|id_token|client_secret|client_assertion|assertion|api_key|apikey|password
        |code|sig|signature|x-amz-signature)=                  # in a URL
    | ://[^/@\s:]+:[^/@\s]+@                                   # a password in a URL
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_NAME_PATTERN = re.compile(
    r"(?:^|[._-])(?:authorization|cookie|set-cookie|password|passwd|secret|api[_-]?key|access[_-]?token|refresh[_-]?token"
    r"|id[_-]?token|token|assertion|credentials?|body|payload|content|arguments|prompt|completion|messages?|headers?"
    r"|private[_-]?key)$",
    re.IGNORECASE,
)


def check_content(event: Mapping[str, object]) -> None:
    """Refuse *event* (JSON values) if it seems to hold a secret or content.

    Raises:
        ContentRefused: with the path of the member.
    """
    for name, value in event.items():
        if name == "attributes":
            if isinstance(value, Mapping):
                _check_attributes(value, "$.attributes", 1)
        else:
            _check_texts(value, f"$.{name}")


def _check_texts(value: object, path: str) -> None:
    if isinstance(value, str):
        if _SECRET_PATTERN.search(value):
            raise ContentRefused(path, "looks like a token or credential")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_texts(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _check_texts(inner, f"{path}[{at}]")


def _check_attributes(value: Mapping[str, object], path: str, depth: int) -> None:
    if depth > MAX_ATTRIBUTE_DEPTH or len(value) > MAX_ATTRIBUTES:
        raise ContentRefused(path, f"has more than {MAX_ATTRIBUTES} members or {MAX_ATTRIBUTE_DEPTH} levels")
    for name, inner in value.items():
        place = f"{path}.{str(name)[:40]}"
        if _SECRET_NAME_PATTERN.search(str(name)) and isinstance(inner, (str, bytes, list, Mapping)):
            raise ContentRefused(place, "is a name of secrets or content")
        if isinstance(inner, Mapping):
            _check_attributes(inner, place, depth + 1)
        elif isinstance(inner, list) and len(inner) > MAX_ATTRIBUTES:
            raise ContentRefused(place, f"has more than {MAX_ATTRIBUTES} members")
        elif isinstance(inner, str) and len(inner) > MAX_ATTRIBUTE_CHARACTERS:
            raise ContentRefused(place, f"is longer than {MAX_ATTRIBUTE_CHARACTERS} characters")
        else:
            _check_texts(inner, place)
