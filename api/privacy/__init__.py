"""Erasure with proof, and export of what is known about one agent (`docs/privacy.md`)."""

from .desk import ErasureRefused, ErasureService
from .places import EmbeddedErasureTargets, ErasureTargets

__all__ = ["EmbeddedErasureTargets", "ErasureRefused", "ErasureService", "ErasureTargets"]
