"""Identity keys: no table changes, but keys of agents do, so programs of before may not start on the database any more.

The keys themselves are changed by `identity_keys.adopt_identity_key`, which has the secret.
"""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Nothing but the number."""
