"""The `state` of verifications that we ask other transmitters for: what comes back is compared with what was asked.

Any process may ask (`serve`, a command) and any other may get the answer, so a state is sealed under the key that all
of them have: it says of which stream and when it was asked, and nobody else can make one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from trustwatch.ingest.formats.security_event_types import VERIFICATION
from trustwatch.scoring.store.received_signal_store import signal_digest

from ..http.auth.security_event_keys import BrokenSeal, SecretSealer
from ..http.auth.set_verification import SetRefused

PURPOSE: Final = "verification-state"


class VerificationStates:
    """Makes states and knows them again. For any thread."""

    def __init__(self, folder: Path, now_s: Callable[[], float]) -> None:
        self._sealer = SecretSealer(folder, PURPOSE)
        self._now_s = now_s

    def make(self, transmitter: str, stream_id: str) -> str:
        """A state to ask for a verification with. Raises ConfigError."""
        return self._sealer.seal(f"{int(self._now_s())} {_stream_digest(transmitter, stream_id)}")

    def check(self, claims: Mapping[str, Any], transmitter: str, max_age_s: float) -> None:
        """Refuse a verification that answers none of ours; those without a state are the transmitter's own.

        Raises SetRefused, ConfigError.
        """
        members = claims["events"].get(VERIFICATION)
        if members is None or members.get("state") is None:
            return
        state, sub_id = members["state"], claims["sub_id"]
        stream_id = sub_id.get("id") if sub_id.get("format") == "opaque" else None
        if not isinstance(state, str) or not isinstance(stream_id, str):
            raise _refusal("is no text, or the subject is no stream")
        try:
            asked_s, _, asked_of = self._sealer.unseal(state).partition(" ")
        except BrokenSeal:
            raise _refusal("was never asked for here") from None
        if asked_of != _stream_digest(transmitter, stream_id):
            raise _refusal("was asked for of another stream")
        if int(asked_s) < self._now_s() - max_age_s:
            raise _refusal("was asked for too long ago")


def state_of(claims: Mapping[str, Any]) -> str:
    """Digest of the state of a verification that was checked; "" = it is none, or has no state."""
    state = (claims["events"].get(VERIFICATION) or {}).get("state")
    return "" if state is None else state_digest(state)


def state_digest(state: str) -> str:
    """Under which a state that came back is remembered: each comes back once."""
    return signal_digest("verification", state)


def used_before() -> SetRefused:
    """Refusal of a second verification with one state."""
    return _refusal("was answered before")


def _stream_digest(transmitter: str, stream_id: str) -> str:
    return signal_digest(transmitter, ascii(stream_id))  # JSON can name half a surrogate pair, which no digest is of


def _refusal(why: str) -> SetRefused:
    return SetRefused("invalid_state", f"the `state` of the verification {why}")
