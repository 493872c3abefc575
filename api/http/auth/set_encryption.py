"""Encryption of signed content (JWE, RFC 7516) to keys that receivers publish, and decryption with our keys. Imported
only if settings require it.

A signed token is the plaintext (nested JWT, RFC 7519 section 5.2): its receiver decrypts, then verifies as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwe, jwk

from trustwatch.ingest.errors import Unavailable

from ...settings.access_settings import IssuerSettings
from .jwks import EpochClock, PublishedKeyCache
from .token_verification import MAX_KEY_ID_LENGTH, MIN_RSA_BITS, PublishedKeys

CONTENT_ALGORITHM: Final = "A256GCM"
MAX_RSA_BITS: Final = 4096
"""Each SET costs one operation with the receiver's key."""

_ALGORITHMS_OF_KEY: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RSA-OAEP-256", "RSA-OAEP"),
    **{
        (kty, crv): ("ECDH-ES+A256KW", "ECDH-ES+A128KW", "ECDH-ES")
        for kty, crv in (("EC", "P-256"), ("EC", "P-384"), ("EC", "P-521"), ("OKP", "X25519"))
    },
}
"""Algorithms by type and curve of a key. The first is used if the key names none."""
_KEY_OPERATIONS: Final = {"encrypt", "wrapKey", "deriveKey", "deriveBits"}
_ALLOWED: Final = sorted({CONTENT_ALGORITHM, *(alg for algs in _ALGORITHMS_OF_KEY.values() for alg in algs)})


class NoEncryptionKey(Unavailable):
    """A receiver whose tokens must be encrypted has no available key. The token is not sent unencrypted."""

    def __init__(self, receiver: str) -> None:
        super().__init__(f"no encryption key of the receiver {receiver} can be had (`shared_signals.encryption`)")


class EncryptionKey(NamedTuple):
    """A receiver's public key, and the header of tokens encrypted to it."""

    key: jwk.Key
    header: Mapping[str, str]


def parse_encryption_keys(document: bytes) -> PublishedKeys[EncryptionKey]:
    """Return the keys of a JWKS document with `use: enc` that can encrypt. Private, symmetric, short and very long ones
    are left out. Raises ValueError if the document is not a JWK set."""
    return PublishedKeys.read(document, lambda _, member: _usable_key(member))


def _usable_key(member: Any) -> tuple[EncryptionKey, ...]:
    if not isinstance(member, dict):
        raise TypeError
    if member.get("use") != "enc" or "d" in member or not _KEY_OPERATIONS & set(member.get("key_ops", _KEY_OPERATIONS)):
        return ()
    curve = "" if member["kty"] == "RSA" else member["crv"]
    fitting, named = _ALGORITHMS_OF_KEY.get((member["kty"], curve), ()), member.get("alg")
    if not fitting or named not in (None, *fitting):
        return ()
    kid = member.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KEY_ID_LENGTH:
        raise TypeError
    names = ("kty", "crv", "x", "y", "n", "e", "use")
    key = jwk.import_key({name: member[name] for name in names if name in member})
    if isinstance(key, jwk.RSAKey) and not MIN_RSA_BITS <= key.public_key.key_size <= MAX_RSA_BITS:
        return ()
    header = {"alg": named or fitting[0], "enc": CONTENT_ALGORITHM, "cty": "JWT"}
    usable = EncryptionKey(key, header | ({"kid": kid} if kid else {}))
    encrypt_token("try", usable)  # a point of low order, an even modulus: read, and of no use
    return (usable,)


def encrypt_token(token: str, key: EncryptionKey) -> str:
    """Return a signed token, encrypted, in compact form."""
    return jwe.encrypt_compact(dict(key.header), token, key.key, algorithms=_ALLOWED)


class NotDecrypted(Exception):
    """A token is malformed, was changed, or is not encrypted to this key."""


class DecryptionKey:
    """One of our keys, to which tokens are encrypted by one algorithm."""

    def __init__(self, key: rsa.RSAPrivateKey, algorithm: str, content_algorithms: Sequence[str]) -> None:
        self._key = jwk.RSAKey.import_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        algorithms = [algorithm, *content_algorithms]
        self._registry = jwe.JWERegistry(algorithms=algorithms, strict_check_header=False)

    def decrypt(self, token: str) -> bytes:
        """Decrypt a JWE in compact form. Raises NotDecrypted."""
        try:
            return jwe.decrypt_compact(token, self._key, registry=self._registry).plaintext or b""
        except Exception:  # joserfc lets errors through of what it reads by: base64, JSON, cryptography
            raise NotDecrypted from None


class _EncryptionKeyCache(PublishedKeyCache[PublishedKeys[EncryptionKey]]):
    _parse = staticmethod(parse_encryption_keys)


class SetEncryption:
    """Encrypts tokens for the receivers whose settings require it. `start` and `close` are for one event loop;
    `encrypt` is for any thread."""

    def __init__(
        self,
        receivers: Iterable[IssuerSettings],
        clock: EpochClock,
        monotonic: Callable[[], float],
        ca_file: Path | None = None,
    ) -> None:
        known = tuple(receivers)
        self._names = frozenset(receiver.issuer for receiver in known)
        self._cache = _EncryptionKeyCache(known, clock, monotonic, ca_file)
        self._started = False

    async def start(self) -> None:
        """Fetch keys, and keep them fresh until `close`. Has no effect if already started."""
        if not self._started:
            self._started = True
            await self._cache.start()

    async def close(self) -> None:
        """Stop fetching. Keys in memory still serve pending deliveries."""
        self._started = False
        await self._cache.close()

    def encrypt(self, receiver: str, token: str) -> str:
        """Return *token*, encrypted if the receiver's settings require it. Raises NoEncryptionKey."""
        if receiver not in self._names:
            return token
        keys = self._cache.keys(receiver)
        if not keys:
            raise NoEncryptionKey(receiver)
        return encrypt_token(token, keys.keys[0])
