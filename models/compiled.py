"""How kernels are compiled: as those of `ingest` are."""

from __future__ import annotations

from ..ingest.compiled import compiled, inlined

__all__ = ["compiled", "inlined"]
