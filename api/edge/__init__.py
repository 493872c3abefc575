"""The door for events: what comes in over HTTP is judged record by record and made durable. Knows no web framework.

One file per matter: `bodies` (request body to records), `registry` (what the operator knows of agents), `admission`
(one record), `recent` (ids seen), `limits` (who may send how much), `letters` (what is refused), `door` (all together).
"""

from .admission import Admission
from .bodies import MAX_BODY, MAX_EVENTS, Parcel, foreign_parcels, inflate, parcels_of, stored_parcel, stored_parcels
from .door import Door, Receipt, Rejection
from .errors import BodyTooLarge, Overloaded, UnsupportedBody
from .limits import Limits
from .registry import AgentRegistry

__all__ = [
    "MAX_BODY",
    "MAX_EVENTS",
    "Admission",
    "AgentRegistry",
    "BodyTooLarge",
    "Door",
    "Limits",
    "Overloaded",
    "Parcel",
    "Receipt",
    "Rejection",
    "UnsupportedBody",
    "foreign_parcels",
    "inflate",
    "parcels_of",
    "stored_parcel",
    "stored_parcels",
]
