"""Whole numbers of records that others could write."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

WireInteger = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A whole number that goes on in frames and columns: a larger one would end who reads the record, each time anew."""

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999 in UTC milliseconds: what lies behind it is no time that could be written down."""

WireTime = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
"""A time in UTC milliseconds."""
