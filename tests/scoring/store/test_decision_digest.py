"""JSON that digests of decisions are over: what is written quickly has the bytes that `json` writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.scoring.store.decision_chain import canonical_json


def written_by_json(values: dict[str, Any]) -> bytes:
    plain = [[name, it.decode() if isinstance(it, bytes) else it] for name, it in values.items()]
    plain = [[name, it + 0.0 if isinstance(it, float) else it] for name, it in plain]
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


@pytest.mark.parametrize("number", range(0x100))
def test_every_letter_of_a_byte(number: int) -> None:
    """Those that both escape, that one of them does, and that none does."""
    values = {"text": f"a{chr(number)}b", "bytes": chr(number).encode()}
    assert canonical_json(values) == written_by_json(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_can_not_write_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"p_value": value})
