"""Indicators: properties of the events that raised an agent's risk, for which a person can search elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from trustwatch_client import risk_answers

IndicatorKind = Literal["network", "address", "software", "credential", "key", "instance", "session", "target"]
IndicatorStatus = Literal["new", "known", "not_remembered", "with_new", "not_tracked"]
NEW_STATUSES: frozenset[IndicatorStatus] = frozenset({"new", "not_remembered", "with_new"})
"""Statuses of indicators that the agent is not known to have had before."""


class Indicator(risk_answers.Indicator, frozen=True):
    """An indicator of a kind and status that this version writes; clients may meet others."""

    kind: Annotated[IndicatorKind, risk_answers.KIND]
    value: Annotated[str, risk_answers.VALUE]
    status: Annotated[IndicatorStatus, risk_answers.STATUS]
    at: Annotated[str, risk_answers.MET_AT]


STATUS_WORDS = {
    "new": "new",
    "known": "known",
    "not_remembered": "not remembered",
    "with_new": "came with something new",
    "not_tracked": "",
}
"""Statuses as they are displayed."""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(tuple[Indicator, ...])
NO_INDICATORS = b"[]"


def encode_indicators(indicators: Sequence[Indicator]) -> bytes:
    """Indicators as the JSON list that rows and answers carry."""
    return _encode(indicators)


def decode_indicators(kept: bytes) -> tuple[Indicator, ...]:
    """Inverse of `encode_indicators`; none for empty bytes."""
    return _decoder.decode(kept) if kept else ()


def indicators_of_plain(given: Any) -> tuple[Indicator, ...]:
    """Indicators from plain values; skips those that a later version wrote in another format."""
    listed = given if isinstance(given, list | tuple) else ()
    indicators = []
    for members in listed:
        try:
            indicators.append(msgspec.convert(members, Indicator))
        except msgspec.ValidationError:
            continue
    return tuple(indicators)
