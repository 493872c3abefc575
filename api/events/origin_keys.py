"""Keys under which clients hash the arguments of calls: one for each tenant and period, derived and never stored.

Each is derived from the pseudonym key of this installation. A derived key reveals no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import structlog

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.identities import PrivacyKey
from trustwatch.ingest.timestamps import DAY_S

from ..composition import open_service_privacy_key
from ..settings.root import Settings
from ..settings.service_settings import PrivacySettings

PERIOD_S = 90 * DAY_S
"""Validity of a key. Hashes of two periods cannot be compared, so a client relearns each quarter."""
MAX_VALIDITY_S = 3_600
"""Maximum time until a client renews its key, within which a changed key reaches it."""

_log = structlog.get_logger(__name__)


def open_shared_secret(settings: Settings) -> PrivacyKey:
    """Return the pseudonym key, if all processes of the deployment share it. Raises ConfigError."""
    if settings.distributed and settings.privacy.key_file is None:
        raise ConfigError(
            "privacy.key_file is not set: with brokers each process would derive other keys of origins, and hashes of "
            "one value would differ; name a file that all processes have, and start again"
        )
    return open_service_privacy_key(settings)


class IssuedOriginKey(NamedTuple):
    """Key of a tenant: `key` in hexadecimal, the number of its period, and when to renew it (s since 1970)."""

    key: Annotated[str, member("secret, 64 hexadecimal digits, for HMAC-SHA-256", "9f86d081884c7d65")]
    epoch: Annotated[int, member("number of the period, which begins and ends with the clock", 4)]
    expires_at: float


@dataclass(eq=False, repr=False)
class OriginKeyIssuer:
    """Issues the current keys of tenants."""

    open_secret: Callable[[], PrivacyKey]  # reads the key of pseudonyms; called when the first key is requested
    settings: PrivacySettings
    clock: Callable[[], float]

    @cached_property
    def _secret(self) -> PrivacyKey:
        try:
            return self.open_secret()
        except ConfigError as error:
            _log.error("no keys of origins are issued", reason=str(error))
            raise Unavailable("the key of pseudonyms cannot be read") from None

    def issue(self, tenant: str) -> IssuedOriginKey:
        """Return the key of *tenant*. Blocks while a small file is read. Raises Unavailable."""
        now = self.clock()
        epoch = int(now // PERIOD_S)
        key = self._secret.origin_key(tenant, epoch, self.settings.origin_key_generation)
        return IssuedOriginKey(key, epoch, min((epoch + 1) * PERIOD_S, now + MAX_VALIDITY_S))
