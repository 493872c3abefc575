"""The door for events: what comes in over HTTP is judged record by record and made durable. Knows no web framework.

One file per matter: `bodies` (request body to records), `registry` (what the operator knows of agents), `admission`
(one record), `recent` (ids seen), `limits` (who may send how much), `letters` (what is refused), `door` (all together).
"""

from .admission import Admission
from .bodies import (
    MAX_BODY_BYTES,
    MAX_BODY_EVENTS,
    RawRecord,
    decompress_body,
    parse_body,
    parse_dead_letter,
    parse_foreign_body,
    parse_foreign_dead_letter,
)
from .door import EventIntake, Receipt, Rejection
from .errors import BodyTooLarge, Overloaded, UnsupportedBody
from .limits import IntakeLimits
from .registry import AgentRegistry

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_BODY_EVENTS",
    "Admission",
    "AgentRegistry",
    "BodyTooLarge",
    "EventIntake",
    "IntakeLimits",
    "Overloaded",
    "RawRecord",
    "Receipt",
    "Rejection",
    "UnsupportedBody",
    "decompress_body",
    "parse_body",
    "parse_dead_letter",
    "parse_foreign_body",
    "parse_foreign_dead_letter",
]
