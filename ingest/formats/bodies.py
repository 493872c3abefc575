"""Cuts a request body into the records it holds, without decoding them: a bad record rejects only itself."""

from __future__ import annotations

import msgspec

from ..errors import MalformedEvent

_array = msgspec.json.Decoder(list[msgspec.Raw])


def split_json(raw: bytes) -> list[bytes]:
    """Records of a native JSON body: one object, or an array of objects.

    Raises:
        MalformedEvent: at `$`, when the body is neither, or the array as such is broken.
    """
    body = raw.strip()
    if body.startswith(b"{"):
        return [body]
    return split_array(body, "an object or an array of objects")


def split_array(raw: bytes, expected: str = "an array of objects") -> list[bytes]:
    """Elements of a JSON array, each as it stands; whether an element is an event is not looked at.

    Raises:
        MalformedEvent: at `$`, when the body is no JSON array; *expected* is named.
    """
    if not raw.lstrip().startswith(b"["):
        raise MalformedEvent(f"body must be {expected}")
    try:
        return [bytes(element) for element in _array.decode(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"body is no JSON array: {error}") from None


def split_ndjson(raw: bytes) -> list[bytes]:
    """Lines of a newline-delimited body that are not blank."""
    return [line for line in map(bytes.strip, raw.split(b"\n")) if line]
