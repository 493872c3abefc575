"""Erasure, pseudonyms and export: what leaves on purpose, and the proof of it (`docs/privacy.md`)."""

from .forgetting import EraseCommand, ErasedAgents
from .key import PrivacyKey, open_privacy_key
from .records import ERASURE_KINDS, ERASURE_STEPS, OPEN_ERASURE_STATUSES, Erasure, PartitionErasure

__all__ = [
    "ERASURE_KINDS",
    "ERASURE_STEPS",
    "OPEN_ERASURE_STATUSES",
    "EraseCommand",
    "ErasedAgents",
    "Erasure",
    "PartitionErasure",
    "PrivacyKey",
    "open_privacy_key",
]
