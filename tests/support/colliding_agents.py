"""Two agents with one key, found by search (van Oorschot and Wiener's collision search, seven minutes on one core)."""

from __future__ import annotations

TENANT, ISSUER = "evil", "https"
FIRST, SECOND = ":a-4ccc3bf62bb8d98f", ":a-51ee807bbe5513b3"
COLLIDING_KEY = 4222819934246822808
"""`agent_key` of both."""
