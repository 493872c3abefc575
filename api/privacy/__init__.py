"""Erasure with proof, and export of what is known about one agent (`docs/privacy.md`)."""

from .desk import ErasureDesk, Refused
from .places import Places

__all__ = ["ErasureDesk", "Places", "Refused"]
