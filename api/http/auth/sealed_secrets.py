"""Secrets that are sealed under a key of this deployment: stored or given away, and read by nobody else."""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .rotated_keys import create_key_file, read_key_file

SEALING_KEY_FILE: Final = "sealing-key"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class BrokenSeal(Exception):
    """A text was not sealed under this key, or for another purpose."""


class SecretSealer:
    """Seals texts under the key of a folder, which is made on first use. It may be used from several threads."""

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self.path = folder / SEALING_KEY_FILE
        self._purpose = purpose.encode()
        self._key: AESGCM | None = None

    def seal(self, text: str) -> str:
        """*text* as only this deployment can read it, each time otherwise. Raises ConfigError."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher().encrypt(nonce, text.encode(), self._purpose)).decode()

    def unseal(self, sealed: str) -> str:
        """Inverse of `seal`. Raises BrokenSeal, ConfigError."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            if len(raw) < _NONCE_BYTES + _TAG_BYTES:
                raise BrokenSeal
            return self._cipher().decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], self._purpose).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise BrokenSeal from None

    def _cipher(self) -> AESGCM:
        if self._key is None:
            create_key_file(self.path, AESGCM.generate_key(256))
            self._key = AESGCM(read_key_file(self.path))
        return self._key
