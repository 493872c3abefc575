"""Context of the transmitter: what its routes and its background work share in one process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from trustwatch.ingest.extras import require_extra
from trustwatch.ingest.formats.received_signals import VERIFICATION
from trustwatch.scoring.delivery.shared_signals.event_types import EventDeriver
from trustwatch.scoring.store.security_event_store import signal_digest

from ..composition import new_id
from ..http.auth.set_verification import SetRefused
from ..http.auth.signing import BrokenSeal, SecretSealer, SecurityEventKeys
from ..http.responses import AnswerSigner
from ..settings.access_settings import ANY_NAME
from ..settings.root import Settings

if TYPE_CHECKING:
    from ..http.auth.set_encryption import SetEncryption

KEY_FOLDER = "shared-signals"
METADATA_PATH = "/.well-known/ssf-configuration"
SECONDS_PER_DAY = 86_400
KEY_DAYS = 90  # A key is replaced after so long; the old one stays published, or is read, for a week
ANSWER_S = 300  # Answers that are signed on request are valid for this long: as long as their risk is useful
MAX_WAITING = 10_000  # Tokens that wait in one stream; beyond, it is disabled and what waits is dropped


class TransmitterContext:
    """Keys, rules and counts, and the bell that wakes waiting polls. For one event loop.

    Raises:
        ConfigError: the library for encryption is not installed.
    """

    def __init__(self, settings: Settings, now_s: Callable[[], float], monotonic: Callable[[], float]) -> None:
        part = settings.shared_signals
        self.settings = part
        self.ca_file = settings.outgoing.ca_file
        self.base_url = settings.listen.url()
        self.issuer = part.issuer or self.base_url
        self.keys = SecurityEventKeys(key_folder(settings), KEY_DAYS * SECONDS_PER_DAY, now_s, monotonic)
        self.answers = AnswerSigner(self.keys, self.issuer, ANSWER_S, now_s, new_id)
        self.encryption: SetEncryption | None = None
        if part.encryption:
            require_extra("jwe", "`shared_signals.encryption` names receivers")
            from ..http.auth.set_encryption import SetEncryption  # a separate extra

            issuers = [keys.as_issuer(name) for name, keys in part.encryption.items()]
            self.encryption = SetEncryption(issuers, now_s, monotonic, self.ca_file)
        self._tenants = {caller.name: frozenset(caller.tenants) for caller in settings.callers}
        self.deriver = EventDeriver(self.issuer, part.subject, self._tenants)
        self.names_principals = part.subject == "complex" and not settings.privacy.pseudonymise_principals
        # A receiver may show a client certificate in place of a token.
        self.takes_certificates = any(caller.certificate is not None for caller in settings.callers)
        self._claim_hooks = [(hook.tenant, hook.issuer) for hook in settings.hooks if hook.claims]
        self.outcomes: Counter[str] = Counter()  # what became of SETs in this process
        self.closing = False  # the service ends, so no poll may wait any longer
        self._waiting: dict[asyncio.Event, str] = {}

    @property
    def metadata_path(self) -> str:
        """Path of the transmitter's metadata; the issuer's own path follows the well-known part."""
        return METADATA_PATH + urlsplit(self.issuer).path.rstrip("/")

    @property
    def waiting_polls(self) -> Counter[str]:
        """Number of polls that wait for SETs, by receiver."""
        return Counter(self._waiting.values())

    def sign(self, owner: str, claims: dict[str, Any]) -> str:
        """A SET as the owner of a stream is to get it. Raises ConfigError, Unavailable: no key of the owner."""
        token = self.keys.sign(claims)
        return token if self.encryption is None else self.encryption.encrypt(owner, token)

    def is_known(self, owner: str) -> bool:
        """True if the owner of a stream is a caller of the settings."""
        return owner in self._tenants

    def may_hear(self, owner: str, tenant: str) -> bool:
        """True if the owner of a stream may hear of agents of *tenant*, as the settings are now; "" is the stream."""
        tenants = self._tenants.get(owner)
        return tenants is not None and (not tenant or tenant in tenants or ANY_NAME in tenants)

    def writes_claims(self, tenant: str, issuer: str) -> bool:
        """True if a hook writes the level into tokens of such agents; one that names no tenant is its caller's."""
        called = any(self.may_hear(caller, tenant) for caller in self._tenants)
        return any(
            (ours == tenant or (ours is None and called)) and theirs in (None, issuer)
            for ours, theirs in self._claim_hooks
        )

    def ring(self) -> None:
        """Wake every waiting poll: SETs may have been queued."""
        for event in self._waiting:
            event.set()

    async def wait_for_ring(self, seconds: float, owner: str) -> None:
        """Wait for a ring, or until *seconds* have passed."""
        event = asyncio.Event()
        self._waiting[event] = owner
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            del self._waiting[event]

    def close(self) -> None:
        """End all waiting polls."""
        self.closing = True
        self.ring()


def key_folder(settings: Settings) -> Path:
    """Folder of all keys of shared signals."""
    return settings.shared_signals.key_dir or settings.data_dir / KEY_FOLDER


PURPOSE: Final = "verification-state"


class VerificationStates:
    """Makes the `state` of each verification that we request, and recognizes it when it returns. For any thread."""

    def __init__(self, folder: Path, now_s: Callable[[], float]) -> None:
        self._sealer = SecretSealer(folder, PURPOSE)
        self._now_s = now_s

    def make(self, transmitter: str, stream_id: str) -> str:
        """A state to ask for a verification with. Raises ConfigError."""
        return self._sealer.seal(f"{int(self._now_s())} {_stream_digest(transmitter, stream_id)}")

    def check(self, claims: Mapping[str, Any], transmitter: str, max_age_s: float) -> None:
        """Refuse a verification that we did not ask for; those without a state are the transmitter's own.

        Raises SetRefused, ConfigError.
        """
        members = claims["events"].get(VERIFICATION)
        if members is None or members.get("state") is None:
            return
        state, sub_id = members["state"], claims["sub_id"]
        stream_id = sub_id.get("id") if sub_id.get("format") == "opaque" else None
        if not isinstance(state, str) or not isinstance(stream_id, str):
            raise refused_state("is not text, or the subject is not a stream")
        try:
            asked_s, _, asked_of = self._sealer.unseal(state).partition(" ")
        except BrokenSeal:
            raise refused_state("was never requested here") from None
        if asked_of != _stream_digest(transmitter, stream_id):
            raise refused_state("was requested for another stream")
        if int(asked_s) < self._now_s() - max_age_s:
            raise refused_state("was requested too long ago")


def state_of(claims: Mapping[str, Any]) -> str:
    """Digest of the state of a verification that was checked; "" = it is none, or has no state."""
    state = (claims["events"].get(VERIFICATION) or {}).get("state")
    return "" if state is None else state_digest(state)


def state_digest(state: str) -> str:
    """Under which a state that came back is remembered: each comes back once."""
    return signal_digest("verification", state)


def _stream_digest(transmitter: str, stream_id: str) -> str:
    return signal_digest(transmitter, ascii(stream_id))  # JSON can name half a surrogate pair, which no digest is of


def refused_state(why: str) -> SetRefused:
    """Refusal of a verification whose `state` is wrong."""
    return SetRefused("invalid_state", f"the `state` of the verification {why}")
