"""Decryption of SETs that transmitters encrypt to keys which we publish (nested JWT, RFC 7519 section 5.2).

Needs the extra `jwe`. Keys are kept and replaced as those that sign: who holds the last one of ours is read for another
week.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trustwatch.ingest.extras import require_extra

from .rotated_keys import RotatedKey, RotatedKeys
from .security_event_keys import PUBLISHED_AFTER_S, PUBLISHED_AHEAD_S
from .set_verification import SetRefused
from .token_verification import MAX_KEY_ID_LENGTH

if TYPE_CHECKING:
    from .set_encryption import DecryptionKey

KEY_ALGORITHM: Final = "RSA-OAEP-256"
"""The only `alg` of our keys (RFC 8725, section 3.1)."""
CONTENT_ALGORITHMS: Final = ("A256GCM", "A192GCM", "A128GCM", "A256CBC-HS512", "A128CBC-HS256")
ASK_AGAIN_S: Final = 1.0
"""A key that is not known may have been made by another process: the folder is read again, so often at most."""


def is_encrypted(token: str) -> bool:
    """True if *token* has the parts of a JWE in compact form (RFC 7516, section 9)."""
    return token.count(".") == 4


class SetDecryption:
    """Decrypts, and publishes the keys. It may be used from several threads.

    Raises:
        ConfigError: the extra is not installed.
    """

    def __init__(
        self,
        folder: Path,
        rotation_s: float,
        now_s: Callable[[], float],
        monotonic: Callable[[], float],
        needed_by: str,
    ) -> None:
        require_extra("jwe", needed_by)
        from . import set_encryption  # an extra of its own

        self._library = set_encryption
        self._imported: dict[str, DecryptionKey] = {}
        self._keys = RotatedKeys(folder, "enc", rotation_s, PUBLISHED_AHEAD_S + PUBLISHED_AFTER_S, now_s, monotonic)

    def jwks(self) -> bytes:
        """The key that SETs are to be encrypted to, as a JWK set: the newest alone. Raises ConfigError."""
        newest = self._keys.current()[-1]
        return msgspec.json.encode({"keys": [{**newest.jwk, "alg": KEY_ALGORITHM, "use": "enc"}]})

    def rotate(self) -> None:
        """Make the next key where it is time, and remove those that nobody needs any more. Raises ConfigError."""
        self._keys.rotate()

    def decrypt(self, token: str) -> str:
        """The signed SET in an encrypted one.

        Raises:
            SetRefused: its algorithms or key are not ours, or it is no JWE.
            ConfigError: our keys can not be read.
        """
        kid = _checked_kid(token)
        for key in self._fitting(kid):
            try:
                return self._import(key).decrypt(token).decode("ascii")
            except self._library.NotDecrypted:
                continue
            except UnicodeDecodeError:
                raise SetRefused("invalid_request", "what is encrypted is no SET in compact form") from None
        if kid is None:
            raise SetRefused("invalid_key", "the SET is encrypted to no key of ours")
        raise SetRefused("invalid_key", "the SET can not be decrypted with the key that it names")

    def _import(self, key: RotatedKey) -> DecryptionKey:
        imported = self._imported.get(key.kid)
        if imported is None:
            imported = self._library.DecryptionKey(key.key, KEY_ALGORITHM, CONTENT_ALGORITHMS)
            self._imported[key.kid] = imported
        return imported

    def _fitting(self, kid: str | None) -> list[RotatedKey]:
        """Keys that may be meant, the newest first. Raises SetRefused: there is none."""
        for max_age_s in (float("inf"), ASK_AGAIN_S):
            keys = [key for key in reversed(self._keys.current(max_age_s)) if kid in (None, key.kid)]
            if keys:
                return keys
        raise SetRefused("invalid_key", "the SET is encrypted to a key that we do not publish: fetch our keys again")


def _checked_kid(token: str) -> str | None:
    """The key that a JWE names; None = it names none. Raises SetRefused: its header is not accepted."""
    header = _read_header(token)
    kid, cty = header.get("kid"), header.get("cty", "JWT")
    if "crit" in header or "zip" in header:
        raise SetRefused("invalid_request", "the encrypted SET uses compression or an extension (zip, crit)")
    if header.get("alg") != KEY_ALGORITHM or header.get("enc") not in CONTENT_ALGORITHMS:
        accepted = f"`alg` {KEY_ALGORITHM}, `enc` {', '.join(CONTENT_ALGORITHMS)}"
        raise SetRefused("invalid_key", f"the encryption algorithm of the SET is not accepted: {accepted}")
    if not isinstance(cty, str) or cty.lower().removeprefix("application/") not in ("jwt", "secevent+jwt"):
        raise SetRefused("invalid_request", "the header `cty` of an encrypted SET is JWT")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KEY_ID_LENGTH):
        raise SetRefused("invalid_request", "the header `kid` of the SET is no key id")
    return kid


def _read_header(token: str) -> dict[str, Any]:
    encoded = token.partition(".")[0]
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SetRefused("invalid_request", "the body is no SET in compact form") from None
