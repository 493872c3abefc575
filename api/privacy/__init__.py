"""Erasure with proof, and export of what is known about one agent (`docs/privacy.md`)."""

from .desk import ErasureDesk, Refused
from .places import Everywhere, Places

__all__ = ["ErasureDesk", "Everywhere", "Places", "Refused"]
