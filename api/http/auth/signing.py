"""Our keys: the local development key, those that sign and decrypt security event tokens (SETs), and the sealing key.

The local key is trusted only if the settings name its issuer and `jwks_file`, as for any other issuer. Keys of SETs
and of signed answers are RSA, and are published before and after use:

* a key signs from a day after it was made (the first of all at once), until the next one does;
* it is published from its making to a week after it last signed.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from trustwatch.ingest.durable_files import create_secret_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import require_extra
from trustwatch.ingest.timestamps import DAY_S

from ... import clock
from .set_verification import SET_TYPE, SetRefused
from .token_verification import MAX_KEY_ID_LENGTH, key_thumbprint

if TYPE_CHECKING:
    from .set_encryption import DecryptionKey

LOCAL_ISSUER: Final = "urn:trustwatch:local"
LOCAL_KEY_FILE: Final = "local-key.pem"
LOCAL_JWKS_FILE: Final = "local-jwks.json"
ASSERTION_LIFETIME_S: Final = 60
"""Lifetime of an assertion, s."""


class LocalSigningKey:
    """An ES256 key of this machine. `kid` is its RFC 7638 thumbprint."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.kid = key_thumbprint(public)
        self.jwk = {**public, "kid": self.kid, "alg": "ES256", "use": "sig"}

    def __repr__(self) -> str:
        return f"LocalSigningKey(kid={self.kid!r})"

    @classmethod
    def open(cls, data_dir: Path) -> LocalSigningKey:
        """Open the key of *data_dir*, which is created on first use: `local-key.pem` (mode 0600) and `local-jwks.json`.

        Raises ConfigError.
        """
        path = data_dir / LOCAL_KEY_FILE
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                create_key_file(path, _pem(ec.generate_private_key(ec.SECP256R1())))
            key = _load_key(path)
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
                raise ConfigError(f"{path}: the local key must be a P-256 key")
            local = cls(key)
            published = data_dir / LOCAL_JWKS_FILE
            if not published.exists() or published.read_bytes() != local.jwks():
                write_file_atomically(published, local.jwks(), mode=0o644)
        except OSError as error:
            raise ConfigError(f"{path}: the local key cannot be read or written: {error.strerror}") from None
        return local

    def jwks(self) -> bytes:
        """Return the public key as a JWK set document."""
        return msgspec.json.encode({"keys": [self.jwk]})

    def issue_token(
        self,
        subject: str,
        client_id: str,
        scopes: Iterable[str],
        audience: str,
        lifetime_s: int,
        now: float,
        token_id: str,
    ) -> str:
        """Issue an access token of issuer `urn:trustwatch:local` in the form of RFC 9068."""
        claims = {
            "iss": LOCAL_ISSUER,
            "sub": subject,
            "client_id": client_id,
            "aud": audience,
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": int(now) + lifetime_s,
            "jti": token_id,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"typ": "at+jwt", "kid": self.kid})

    def sign_document(self, document: dict[str, Any], kind: str) -> str:
        """Sign a document as a compact JWS. *kind* is its `typ`, which none of our tokens has."""
        return jwt.encode(document, self._key, algorithm="ES256", headers={"typ": kind, "kid": self.kid})

    def read_document(self, signed: str, kind: str) -> dict[str, Any]:
        """Verify a signed document and return what `sign_document` was given. Raises ValueError."""
        try:
            if jwt.get_unverified_header(signed).get("typ") != kind:
                raise ValueError(f"not of the kind {kind}")
            return dict(jwt.decode(signed, self._key.public_key(), algorithms=["ES256"]))
        except jwt.PyJWTError as error:
            raise ValueError(f"not signed by the key {self.kid}: {error}") from None


def assertion_signer(
    key: str, key_id: str, now_s: Callable[[], float], new_id: Callable[[], str]
) -> Callable[[str, str], str]:
    """Return a signer of our client authentication at other servers (`private_key_jwt`, RFC 7523). Raises
    ConfigError."""

    def sign(client_id: str, audience: str) -> str:
        issued = int(now_s())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": issued,
            "exp": issued + ASSERTION_LIFETIME_S,
            "jti": new_id(),
        }
        return jwt.encode(claims, private, algorithm=algorithm, headers={"kid": key_id})

    try:  # a wrong key shows at start, not at the first containment
        private: Any = load_pem_private_key(key.encode(), None)
        algorithm = _ALGORITHMS.get(getattr(getattr(private, "curve", None), "name", ""), "EdDSA")
        if isinstance(private, rsa.RSAPrivateKey):
            algorithm = "RS256"
        sign("trial", "trial")
    except (jwt.PyJWTError, TypeError, ValueError, NotImplementedError, UnsupportedAlgorithm):
        raise ConfigError(f"the key {key_id!r} is not a private key in PEM: RSA, EC or Ed25519") from None
    return sign


_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def issue_local_token(data_dir: Path, client_id: str, scopes: list[str], audience: str, lifetime_s: int) -> str:
    """Issue a token signed with the key of *data_dir*. It is accepted only if the settings trust that issuer."""
    key, token_id = LocalSigningKey.open(data_dir), secrets.token_urlsafe(12)
    return key.issue_token(client_id, client_id, scopes, audience, lifetime_s, clock.now_s(), token_id)


def create_key_file(path: Path, content: bytes) -> None:
    """Write a key file, unless it exists. Raises ConfigError."""
    try:
        create_secret_file(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: a key cannot be written: {error.strerror}") from None


def read_key_file(path: Path) -> bytes:
    """Read a key file. Raises ConfigError if other users may read it, or this process may not."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read the key; its mode must be 0600")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}") from None


def _load_key(path: Path) -> Any:
    try:
        return load_pem_private_key(read_key_file(path), password=None)
    except ValueError:
        raise ConfigError(f"{path}: is not a private key in PEM") from None


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY_BITS: Final = 2048
REREAD_EVERY_S: Final = 60.0
PUBLISHED_AHEAD_S: Final = DAY_S
"""A receiver that fetched the keys just before gets a new one before it signs."""
PUBLISHED_AFTER_S: Final = 7 * DAY_S


class RotatedKey(NamedTuple):
    """One key of the folder."""

    made_s: int  # since 1970
    kid: str  # thumbprint (RFC 7638)
    key: rsa.RSAPrivateKey
    jwk: dict[str, Any]  # its public half, with `kid`
    path: Path


class RotatedKeys:
    """Keys of one purpose: the files of a folder with one prefix. Safe for use from several threads."""

    def __init__(
        self, folder: Path, prefix: str, rotation_s: float, now_s: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._rotation_s = rotation_s
        self._now_s = now_s
        self._monotonic = monotonic
        self._keys: tuple[RotatedKey, ...] = ()
        self._read_at = float("-inf")

    def current(self, max_age_s: float = REREAD_EVERY_S) -> tuple[RotatedKey, ...]:
        """Return all keys, the oldest first, as read from the folder at most *max_age_s* ago. Raises ConfigError."""
        now = self._monotonic()
        if now - self._read_at >= max_age_s:
            self._keys = self._read_keys()
            if not self._keys:
                self._make_key(int(self._now_s()))
                self._keys = self._read_keys()
            self._read_at = now
        return self._keys

    def rotate(self) -> None:
        """Make the next key if it is due, and remove keys that are no longer needed. For one process at a time.

        Raises ConfigError.
        """
        keys, now = self.current(), self._now_s()
        if keys[-1].made_s + self._rotation_s <= now:
            self._make_key(int(now))
        for key, successor in pairwise(keys):
            if successor.made_s + PUBLISHED_AHEAD_S + PUBLISHED_AFTER_S < now:
                key.path.unlink(missing_ok=True)
        self._read_at = float("-inf")

    def _read_keys(self) -> tuple[RotatedKey, ...]:
        keys_by_path = {key.path: key for key in self._keys}
        try:
            paths = sorted(self._folder.glob(f"{self._prefix}-*.pem"), key=self._time_of_name)
            return tuple(keys_by_path.get(path) or self._load_key(path) for path in paths)
        except OSError as error:
            raise ConfigError(f"{self._folder}: keys cannot be read: {error.strerror}") from None

    def _make_key(self, made_s: int) -> None:
        key = rsa.generate_private_key(65_537, KEY_BITS)
        create_key_file(self._folder / f"{self._prefix}-{made_s}.pem", _pem(key))

    def _time_of_name(self, path: Path) -> int:
        time_text = path.stem.removeprefix(f"{self._prefix}-")
        if not time_text.isdigit():
            raise ConfigError(f"{path}: keys are called {self._prefix}-SECONDS.pem, by when they were made")
        return int(time_text)

    def _load_key(self, path: Path) -> RotatedKey:
        key = _load_key(path)
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS:
            raise ConfigError(f"{path}: expected an RSA key of {KEY_BITS} bits or more")
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        members = {name: public[name] for name in ("kty", "n", "e")}
        kid = key_thumbprint(members)
        return RotatedKey(self._time_of_name(path), kid, key, {**members, "kid": kid}, path)


SEALING_KEY_FILE: Final = "sealing-key"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class BrokenSeal(Exception):
    """A text was sealed with another key, or for another purpose."""


class SecretSealer:
    """Seals texts under the key of a folder, which is made on first use. Safe for use from several threads."""

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self.path = folder / SEALING_KEY_FILE
        self._purpose = purpose.encode()
        self._key: AESGCM | None = None

    def seal(self, text: str) -> str:
        """Encrypt *text* for this deployment, differently each time. Raises ConfigError."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher().encrypt(nonce, text.encode(), self._purpose)).decode()

    def unseal(self, sealed: str) -> str:
        """Decrypt a text that `seal` returned. Raises BrokenSeal, ConfigError."""
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


class SecurityEventKeys(RotatedKeys):
    """Signs SETs and publishes the keys; seals secrets of receivers. Safe for use from several threads."""

    def __init__(
        self, folder: Path, rotation_s: float, now_s: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        super().__init__(folder, "set", rotation_s, now_s, monotonic)
        self._sealer = SecretSealer(folder)

    def sign(self, claims: dict[str, Any], token_type: str = SET_TYPE) -> str:
        """Sign a SET with these claims, or another token of that type, as a compact JWS.

        Raises ConfigError: a key cannot be read or made.
        """
        keys, now = self.current(), self._now_s()
        ready = [key for key in keys if key.made_s + PUBLISHED_AHEAD_S <= now]
        signer = ready[-1] if ready else keys[0]
        return jwt.encode(claims, signer.key, algorithm="RS256", headers={"typ": token_type, "kid": signer.kid})

    def jwks(self) -> bytes:
        """Return all keys by which SETs may have been signed, or will be soon, as a JWK set. Raises ConfigError."""
        keys = [{**key.jwk, "alg": "RS256", "use": "sig"} for key in self.current()]
        return msgspec.json.encode({"keys": keys})

    def seal(self, secret: str) -> str:
        """Encrypt *secret* for this deployment; "" stays "". Raises ConfigError."""
        return self._sealer.seal(secret) if secret else ""

    def unseal(self, sealed: str) -> str:
        """Decrypt a secret that `seal` returned. Raises ConfigError if it was sealed under another key."""
        try:
            return self._sealer.unseal(sealed) if sealed else ""
        except BrokenSeal:
            raise ConfigError(
                f"{self._sealer.path}: not the key under which receivers' secrets were stored; restore "
                "it, or have receivers set their streams up again"
            ) from None


KEY_ALGORITHM: Final = "RSA-OAEP-256"
"""The only `alg` of our keys (RFC 8725, section 3.1)."""
CONTENT_ALGORITHMS: Final = ("A256GCM", "A192GCM", "A128GCM", "A256CBC-HS512", "A128CBC-HS256")
ASK_AGAIN_S: Final = 1.0
"""Another process may have made an unknown key, so the folder is read again, at most this often."""


class SetDecryption(RotatedKeys):
    """Decrypts SETs, and publishes the keys. Safe for use from several threads. Raises ConfigError."""

    def __init__(
        self,
        folder: Path,
        rotation_s: float,
        now_s: Callable[[], float],
        monotonic: Callable[[], float],
        needed_by: str,
    ) -> None:
        require_extra("jwe", needed_by)
        from . import set_encryption  # needs the extra

        self._library = set_encryption
        self._imported: dict[str, DecryptionKey] = {}
        super().__init__(folder, "enc", rotation_s, now_s, monotonic)

    def jwks(self) -> bytes:
        """Return the newest key, to which SETs are to be encrypted, as a JWK set. Raises ConfigError."""
        newest = self.current()[-1]
        return msgspec.json.encode({"keys": [{**newest.jwk, "alg": KEY_ALGORITHM, "use": "enc"}]})

    def decrypt(self, token: str) -> str:
        """Return the signed SET in an encrypted one. Raises SetRefused, ConfigError."""
        kid = _checked_kid(token)
        keys: list[RotatedKey] = []
        for max_age_s in (float("inf"), ASK_AGAIN_S):
            keys = keys or [key for key in reversed(self.current(max_age_s)) if kid in (None, key.kid)]
        if not keys:
            raise SetRefused(
                "invalid_key", "the SET is encrypted to a key that we do not publish: fetch our keys again"
            )
        for key in keys:
            if key.kid not in self._imported:
                imported = self._library.DecryptionKey(key.key, KEY_ALGORITHM, CONTENT_ALGORITHMS)
                self._imported[key.kid] = imported
            try:
                return self._imported[key.kid].decrypt(token).decode("ascii")
            except self._library.NotDecrypted:
                continue
            except UnicodeDecodeError:
                raise SetRefused("invalid_request", "the content is not a SET in compact form") from None
        if kid is None:
            raise SetRefused("invalid_key", "the SET is not encrypted to a key of ours")
        raise SetRefused("invalid_key", "the SET cannot be decrypted with the key that it names")


def _checked_kid(token: str) -> str | None:
    """Return the key that a JWE names, or None if it names none. Raises SetRefused if its header is not accepted."""
    encoded = token.partition(".")[0]
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        header = msgspec.json.decode(raw, type=dict[str, Any])
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SetRefused("invalid_request", "the body is not a SET in compact form") from None
    kid, cty = header.get("kid"), header.get("cty", "JWT")
    if "crit" in header or "zip" in header:
        raise SetRefused("invalid_request", "the encrypted SET uses compression or an extension (zip, crit)")
    if header.get("alg") != KEY_ALGORITHM or header.get("enc") not in CONTENT_ALGORITHMS:
        accepted = f"`alg` {KEY_ALGORITHM}, `enc` {', '.join(CONTENT_ALGORITHMS)}"
        raise SetRefused("invalid_key", f"the encryption algorithm of the SET is not accepted: {accepted}")
    if not isinstance(cty, str) or cty.lower().removeprefix("application/") not in ("jwt", "secevent+jwt"):
        raise SetRefused("invalid_request", "the header `cty` of an encrypted SET is JWT")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KEY_ID_LENGTH):
        raise SetRefused("invalid_request", "the header `kid` of the SET is not a key id")
    return kid
