"""How kernels are compiled, in one place: cached, sequential, without fast-math, so that runs give equal bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

as_int = cast(Callable[[Any], int], np.int64)
"""A signed integer for kernels: `int` leaves one without sign as it is, and the two together become a float."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call; the machine code is kept beside the source (or in `NUMBA_CACHE_DIR`)."""
    return cast(Callable[P, R], njit(cache=True)(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """As `allocation_free`, for small helpers that other kernels call: always inlined by LLVM."""
    options: dict[str, Any] = {"cache": True, "_nrt": False, "forceinline": True}
    return cast(Callable[P, R], njit(**options)(function))


def allocation_free(function: Callable[P, R]) -> Callable[P, R]:
    """As `compiled`, for kernels that create no arrays, only views of their arguments; so may all that they call.

    Without numba's runtime a view costs nothing. With it each one is an atomic count up and down, which made up most of
    the feature kernel's time.
    """
    options: dict[str, Any] = {"cache": True, "_nrt": False}
    return cast(Callable[P, R], njit(**options)(function))
