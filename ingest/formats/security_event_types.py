"""Types of security events (SETs) that we send and take: the bases of their URIs, and those about a stream itself.

WISE (Workload Identity Security Events) is a draft: but for this module, the tables of what we take
(`received_signals`) and send (`scoring/delivery/shared_signals/event_types.py`) alone know its names.
"""

from __future__ import annotations

from typing import Final

CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
WISE: Final = "https://schemas.openid.net/secevent/wise/event-type/"
SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"

VERIFICATION: Final = SSF + "verification"
STREAM_UPDATED: Final = SSF + "stream-updated"
