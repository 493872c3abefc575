"""Privacy: what the slice adds to the application."""

from __future__ import annotations

from ..http.slice import Slice
from .routes import router

SLICE = Slice("privacy", routers=(router,))
