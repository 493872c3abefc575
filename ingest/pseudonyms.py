"""The key of pseudonyms and of marks: a separate file, made on first use."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from .durable_files import read_key_file

PRIVACY_KEY_FILE = "privacy-key"
PRIVACY_KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 1024
MAX_REMEMBERED_PSEUDONYMS = 16_384
"""Pseudonyms that are remembered; then all are forgotten and made again."""

_PSEUDONYM = re.compile(r"p~[0-9a-f]{32}")


class PrivacyKey:
    """Keyed hashes (HMAC-SHA-256) of names. Without the key no name can be found from one."""

    def __init__(self, key: bytes) -> None:
        if len(key) < PRIVACY_KEY_BYTES:
            raise ValueError(f"a key has at least {PRIVACY_KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self._pseudonyms: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return "PrivacyKey(…)"

    def erasure_mark(self, agent_key: int) -> str:
        """By which a forgotten agent is recognized, hexadecimal."""
        return self._digest(b"forgotten", str(agent_key).encode())

    def pseudonym(self, tenant: str, name: str) -> str:
        """Pseudonym of a tenant's principal: always the same under the same key. A pseudonym is returned as it is."""
        if _PSEUDONYM.fullmatch(name):
            return name
        pseudonym = self._pseudonyms.get((tenant, name))
        if pseudonym is None:
            if len(self._pseudonyms) >= MAX_REMEMBERED_PSEUDONYMS:
                self._pseudonyms.clear()
            pseudonym = "p~" + self._digest(b"principal", f"{len(tenant)}:{tenant}{name}".encode())[:32]
            self._pseudonyms[tenant, name] = pseudonym
        return pseudonym

    def origin_key(self, tenant: str, epoch: int, generation: int) -> str:
        """Key, hexadecimal, under which clients of a tenant hash the arguments of calls in one period."""
        return self._digest(b"origin key", f"{generation}:{epoch}:{tenant}".encode())

    def nonce_key(self) -> bytes:
        """Key of the nonces that clients prove themselves with: the same in every process of the deployment."""
        return bytes.fromhex(self._digest(b"nonces", b""))

    def _digest(self, purpose: bytes, data: bytes) -> str:
        return hmac.new(self._key, purpose + b"\0" + data, hashlib.sha256).hexdigest()


def open_privacy_key(path: Path) -> PrivacyKey:
    """The key in a file, created if missing. Raises ConfigError."""
    return PrivacyKey(read_key_file(path, "the key of pseudonyms", range(PRIVACY_KEY_BYTES, MAX_KEY_FILE_BYTES)))
