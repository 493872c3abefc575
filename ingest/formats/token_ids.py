"""Ids of tokens as events name them: by their digest, which tells nobody the id and compares all the same."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def token_id_digest(token_id: str) -> str:
    """`sha256:` and the digest of an id in hex; one that is such a digest already stays as it is."""
    return token_id if _DIGEST.fullmatch(token_id) else text_digest(token_id)


def text_digest(text: str) -> str:
    """`sha256:` and the digest of any text in hex."""
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
