"""The access path of a call: by which network, credential and delegation chain an agent calls."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .columns import network_of
from .events import NativeEvent

_MAX_SHOWN = 60
_THUMBPRINT_SHOWN = 12


class AccessPath(NamedTuple):
    """Network, credential and delegation chain of one call; "" if unknown."""

    network: str  # an autonomous system, else the network of the address
    method: str
    thumbprint: str
    delegation: tuple[str, ...]

    @staticmethod
    def of_event(event: NativeEvent) -> AccessPath:
        """Read the path of an event, in the form in which an agent's networks and credentials are learned."""
        client, login = event.client, event.credential
        network = "" if client is None else network_of(client.ip) if client.asn is None else f"AS{client.asn}"
        method, thumbprint = ("", "") if login is None else (login.method or "", login.thumbprint or "")
        return AccessPath(network, method, thumbprint, tuple(event.delegation or ()))

    @property
    def is_told(self) -> bool:
        """True if the call states anything about its path."""
        return any(self)

    def encoded(self) -> bytes:
        """Encode the path so that no two paths have the same bytes."""
        return msgspec.json.encode(self)

    def describe(self) -> str:
        """Describe the path to a person who decides about it; of the chain only its length, as it names other agents.

        >>> AccessPath("AS64500", "private_key_jwt", "kTUBw9k1ABCDEFGH", ("a", "b")).describe()
        'from AS64500, private_key_jwt kTUBw9k1ABCD…, 2 in the delegation chain'
        >>> AccessPath("", "", "", ()).describe()
        'from an unknown network, no credential, no delegation'
        """
        thumbprint = self.thumbprint[:_THUMBPRINT_SHOWN] + ("…" if len(self.thumbprint) > _THUMBPRINT_SHOWN else "")
        credential = f"{self.method[:_MAX_SHOWN]} {thumbprint}".strip() or "no credential"
        chain = f"{len(self.delegation)} in the delegation chain" if self.delegation else "no delegation"
        return f"from {self.network[:_MAX_SHOWN] or 'an unknown network'}, {credential}, {chain}"
