"""Keys of the transmitter of security event tokens (SETs) and of signed answers: RSA, published before and after use.

* a key signs from a day after it was made (the first of all at once), until the next one does;
* it is published from its making to a week after it last signed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.timestamps import DAY_S

from .rotated_keys import RotatedKey, RotatedKeys
from .sealed_secrets import BrokenSeal, SecretSealer

SET_TYPE: Final = "secevent+jwt"
PUBLISHED_AHEAD_S: Final = DAY_S
"""A receiver that fetched the keys just before learns of a new one before it signs."""
PUBLISHED_AFTER_S: Final = 7 * DAY_S


class SecurityEventKeys:
    """Signs SETs and publishes the keys; seals secrets of receivers. It may be used from several threads."""

    def __init__(
        self, folder: Path, rotation_s: float, now_s: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        kept_s = PUBLISHED_AHEAD_S + PUBLISHED_AFTER_S
        self._keys = RotatedKeys(folder, "set", rotation_s, kept_s, now_s, monotonic)
        self._sealer = SecretSealer(folder)
        self._now_s = now_s

    def sign(self, claims: dict[str, Any], token_type: str = SET_TYPE) -> str:
        """A SET with these claims, or another token of that type, as a compact JWS.

        Raises ConfigError: a key can not be read or made.
        """
        signer = self._signer()
        return jwt.encode(claims, signer.key, algorithm="RS256", headers={"typ": token_type, "kid": signer.kid})

    def jwks(self) -> bytes:
        """All keys by which SETs may have been signed, or will be soon, as a JWK set. Raises ConfigError."""
        keys = [{**key.jwk, "alg": "RS256", "use": "sig"} for key in self._keys.current()]
        return msgspec.json.encode({"keys": keys})

    def rotate(self) -> None:
        """Make the next key where it is time, and remove those that nobody needs any more. For one process at a time.

        Raises ConfigError.
        """
        self._keys.rotate()

    def seal(self, secret: str) -> str:
        """*secret* as only this deployment can read it; "" stays "". Raises ConfigError."""
        return self._sealer.seal(secret) if secret else ""

    def unseal(self, sealed: str) -> str:
        """Inverse of `seal`. Raises ConfigError: it was sealed under another key."""
        try:
            return self._sealer.unseal(sealed) if sealed else ""
        except BrokenSeal:
            raise ConfigError(
                f"{self._sealer.path}: not the key under which receivers' secrets were stored; restore "
                "it, or have receivers set their streams up again"
            ) from None

    def _signer(self) -> RotatedKey:
        keys, now = self._keys.current(), self._now_s()
        ready = [key for key in keys if key.made_s + PUBLISHED_AHEAD_S <= now]
        return ready[-1] if ready else keys[0]
