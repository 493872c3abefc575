"""Two agents with one key. Under a real key nobody finds a pair, so these identities give it to two on purpose."""

from __future__ import annotations

from trustwatch.ingest.identities import AgentHash, IdentityHasher

TENANT, ISSUER = "evil", "https"
FIRST, SECOND = ":a-4ccc3bf62bb8d98f", ":a-51ee807bbe5513b3"
"""Once the names of a real pair: under the unkeyed hash of 0.1, found in seven minutes on one core (van Oorschot and
Wiener's collision search)."""
COLLIDING_KEY = 4222819934246822808
"""Key of both: under the hash of 0.1, and under `CollidingIdentities`."""


class CollidingIdentities(IdentityHasher):
    """Identities in which the first halves of the two agree; the second halves are as ever."""

    def agent_hash(self, tenant: str, issuer: str, agent_id: str) -> AgentHash:
        """As in the product, but for the two."""
        real = super().agent_hash(tenant, issuer, agent_id)
        return real._replace(key=COLLIDING_KEY) if agent_id in {FIRST, SECOND} else real

    def agent_key(self, tenant: str, issuer: str, agent_id: str) -> int:
        """As in the product, but for the two."""
        return self.agent_hash(tenant, issuer, agent_id).key
