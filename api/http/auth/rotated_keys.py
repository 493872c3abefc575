"""RSA keys in files of one folder, each followed by another.

The state of the rotation is in the names of the files, which say when a key was made, so every process that reads the
folder comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

from trustwatch.ingest.durable_files import create_secret_file
from trustwatch.ingest.errors import ConfigError

from .token_verification import key_thumbprint

KEY_BITS: Final = 2048
REREAD_EVERY_S: Final = 60.0


class RotatedKey(NamedTuple):
    """One key of the folder.

    Attributes:
        made_s: when it was made, s since 1970.
        kid: its thumbprint (RFC 7638).
        key: the private key.
        jwk: its public half, with `kid`.
        path: of its file.
    """

    made_s: int
    kid: str
    key: rsa.RSAPrivateKey
    jwk: dict[str, Any]
    path: Path


class RotatedKeys:
    """Keys of one purpose. It may be used from several threads."""

    def __init__(
        self,
        folder: Path,
        prefix: str,
        rotation_s: float,
        kept_s: float,
        now_s: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._rotation_s = rotation_s
        self._kept_s = kept_s
        self._now_s = now_s
        self._monotonic = monotonic
        self._keys: tuple[RotatedKey, ...] = ()
        self._read_at = float("-inf")

    def current(self, max_age_s: float = REREAD_EVERY_S) -> tuple[RotatedKey, ...]:
        """All keys, the oldest first, as the folder had them at most *max_age_s* ago. Raises ConfigError."""
        now = self._monotonic()
        if now - self._read_at >= max_age_s:
            self._keys = self._read_keys()
            if not self._keys:
                self._make_key(int(self._now_s()))
                self._keys = self._read_keys()
            self._read_at = now
        return self._keys

    def rotate(self) -> None:
        """Make the next key where it is time, and remove those that nobody needs any more. Raises ConfigError."""
        keys, now = self.current(), self._now_s()
        if keys[-1].made_s + self._rotation_s <= now:
            self._make_key(int(now))
        for key, successor in pairwise(keys):
            if successor.made_s + self._kept_s < now:
                key.path.unlink(missing_ok=True)
        self._read_at = float("-inf")

    def _read_keys(self) -> tuple[RotatedKey, ...]:
        keys_by_path = {key.path: key for key in self._keys}
        try:
            paths = sorted(self._folder.glob(f"{self._prefix}-*.pem"), key=self._time_of_name)
            return tuple(keys_by_path.get(path) or self._load_key(path) for path in paths)
        except OSError as error:
            raise ConfigError(f"{self._folder}: keys can not be read: {error.strerror}") from None

    def _make_key(self, made_s: int) -> None:
        key = rsa.generate_private_key(65_537, KEY_BITS)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_key_file(self._folder / f"{self._prefix}-{made_s}.pem", pem)

    def _time_of_name(self, path: Path) -> int:
        time_text = path.stem.removeprefix(f"{self._prefix}-")
        if not time_text.isdigit():
            raise ConfigError(f"{path}: keys are called {self._prefix}-SECONDS.pem, by when they were made")
        return int(time_text)

    def _load_key(self, path: Path) -> RotatedKey:
        try:
            key = load_pem_private_key(read_key_file(path), password=None)
        except ValueError:
            raise ConfigError(f"{path}: is no private key in PEM") from None
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS:
            raise ConfigError(f"{path}: expected an RSA key of {KEY_BITS} bits or more")
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        members = {name: public[name] for name in ("kty", "n", "e")}
        kid = key_thumbprint(members)
        return RotatedKey(self._time_of_name(path), kid, key, {**members, "kid": kid}, path)


def create_key_file(path: Path, content: bytes) -> None:
    """Make a file of a key, where it is not there. Raises ConfigError."""
    try:
        create_secret_file(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: a key can not be written: {error.strerror}") from None


def read_key_file(path: Path) -> bytes:
    """Read the file of a key. Raises ConfigError: others may read it, too, or we may not."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read the key; its mode must be 0600")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key can not be read: {error.strerror}") from None
