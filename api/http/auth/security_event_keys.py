"""Keys of the transmitter of security event tokens (SETs) and of signed answers: RSA, published before and after use.

The state of the rotation is in the names of the files, which say when a key was made, so every process that reads the
folder comes to the same answer:

* a key signs from a day after it was made (the first of all at once), until the next one does;
* it is published from its making to a week after it last signed.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

from ....ingest.durable_files import create_secret_file
from ....ingest.errors import ConfigError
from ....ingest.timestamps import DAY_S

SET_TYPE: Final = "secevent+jwt"
KEY_BITS: Final = 2048
PUBLISHED_AHEAD_S: Final = DAY_S
"""A receiver that fetched the keys just before learns of a new one before it signs."""
PUBLISHED_AFTER_S: Final = 7 * DAY_S
REREAD_EVERY_S: Final = 60.0
SEALING_KEY_FILE: Final = "sealing-key"

_NONCE_BYTES = 12


class _SigningKey(NamedTuple):
    made_s: int
    kid: str
    key: rsa.RSAPrivateKey
    jwk: dict[str, Any]
    path: Path


class SecurityEventKeys:
    """Signs SETs and publishes the keys; seals secrets of receivers. It may be used from several threads.

    Args:
        folder: of the keys, made with the first of them on first use.
        rotation_s: age at which a key is followed by another.
        now_s: seconds since 1970.
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(
        self, folder: Path, rotation_s: float, now_s: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._rotation_s = rotation_s
        self._now_s = now_s
        self._monotonic = monotonic
        self._keys: tuple[_SigningKey, ...] = ()
        self._read_at = float("-inf")
        self._sealing: AESGCM | None = None

    def sign(self, claims: dict[str, Any], token_type: str = SET_TYPE) -> str:
        """A SET with these claims, or another token of that type, as a compact JWS.

        Raises ConfigError: a key can not be read or made.
        """
        signer = self._signer()
        return jwt.encode(claims, signer.key, algorithm="RS256", headers={"typ": token_type, "kid": signer.kid})

    def jwks(self) -> bytes:
        """All keys by which SETs may have been signed, or will be soon, as a JWK set. Raises ConfigError."""
        return msgspec.json.encode({"keys": [key.jwk for key in self._current_keys()]})

    def rotate(self) -> None:
        """Make the next key where it is time, and remove those that nobody needs any more. For one process at a time.

        Raises ConfigError.
        """
        keys, now = self._current_keys(), self._now_s()
        if keys[-1].made_s + self._rotation_s <= now:
            self._make_key(int(now))
        for key, successor in pairwise(keys):
            if successor.made_s + PUBLISHED_AHEAD_S + PUBLISHED_AFTER_S < now:
                key.path.unlink(missing_ok=True)
        self._read_at = float("-inf")

    def seal(self, secret: str) -> str:
        """*secret* as only this deployment can read it; "" stays "". Raises ConfigError."""
        if not secret:
            return ""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._sealing_key().encrypt(nonce, secret.encode(), None)
        return base64.b64encode(sealed).decode()

    def unseal(self, sealed: str) -> str:
        """Inverse of `seal`. Raises ConfigError: it was sealed under another key."""
        if not sealed:
            return ""
        raw = base64.b64decode(sealed)
        try:
            return self._sealing_key().decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None).decode()
        except InvalidTag:
            raise ConfigError(
                f"{self._folder / SEALING_KEY_FILE}: not the key under which receivers' secrets were stored; restore "
                "it, or have receivers set their streams up again"
            ) from None

    def _signer(self) -> _SigningKey:
        keys, now = self._current_keys(), self._now_s()
        ready = [key for key in keys if key.made_s + PUBLISHED_AHEAD_S <= now]
        return ready[-1] if ready else keys[0]

    def _current_keys(self) -> tuple[_SigningKey, ...]:
        now = self._monotonic()
        if now - self._read_at >= REREAD_EVERY_S:
            self._keys = self._read_keys()
            if not self._keys:
                self._make_key(int(self._now_s()))
                self._keys = self._read_keys()
            self._read_at = now
        return self._keys

    def _read_keys(self) -> tuple[_SigningKey, ...]:
        known = {key.path: key for key in self._keys}
        try:
            paths = sorted(self._folder.glob("set-*.pem"), key=_time_of_name)
            return tuple(known.get(path) or _load_key(path) for path in paths)
        except OSError as error:
            raise ConfigError(f"{self._folder}: signing keys can not be read: {error.strerror}") from None

    def _make_key(self, made_s: int) -> None:
        key = rsa.generate_private_key(65_537, KEY_BITS)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._create(f"set-{made_s}.pem", pem)

    def _sealing_key(self) -> AESGCM:
        if self._sealing is None:
            path = self._folder / SEALING_KEY_FILE
            if not path.exists():
                self._create(SEALING_KEY_FILE, AESGCM.generate_key(256))
            self._sealing = AESGCM(_read_secret(path))
        return self._sealing

    def _create(self, name: str, content: bytes) -> None:
        try:
            create_secret_file(self._folder / name, content)
        except OSError as error:
            raise ConfigError(f"{self._folder / name}: a key can not be written: {error.strerror}") from None


def _time_of_name(path: Path) -> int:
    made = path.stem.removeprefix("set-")
    if not made.isdigit():
        raise ConfigError(f"{path}: keys are called set-SECONDS.pem, by when they were made")
    return int(made)


def _read_secret(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read the key; its mode must be 0600")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key can not be read: {error.strerror}") from None


def _load_key(path: Path) -> _SigningKey:
    try:
        key = load_pem_private_key(_read_secret(path), password=None)
    except ValueError:
        raise ConfigError(f"{path}: is no private key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS:
        raise ConfigError(f"{path}: expected an RSA key of {KEY_BITS} bits or more")
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = {name: public[name] for name in ("kty", "n", "e")}
    digest = hashlib.sha256(msgspec.json.encode(members, order="sorted")).digest()
    kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return _SigningKey(_time_of_name(path), kid, key, {**members, "kid": kid, "alg": "RS256", "use": "sig"}, path)
