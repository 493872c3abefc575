"""Erasure, pseudonyms and export: what leaves on purpose, and the proof of it (`docs/privacy.md`)."""

from .forgetting import Forget, Forgotten
from .key import PrivacyKey, open_key
from .records import KINDS, OPEN, STEPS, Erasure, Met

__all__ = ["KINDS", "OPEN", "STEPS", "Erasure", "Forget", "Forgotten", "Met", "PrivacyKey", "open_key"]
