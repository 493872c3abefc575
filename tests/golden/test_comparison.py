"""The comparison with golden results tells every kind of difference."""

from __future__ import annotations

from typing import Any

import pytest

from . import support

GOLDEN = [{"id": "a", "score": 0.5, "reasons": ["x"], "level": "low"}]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"level": "high"}, "[0].level: 'high', recorded 'low'"),
        ({"score": 0.5 + 1e-8}, "[0].score: 0.50000001, recorded 0.5"),
        ({"score": 1}, "[0].score: 1, recorded 0.5"),
        ({"reasons": []}, "[0].reasons: 0 items, recorded 1"),
        ({"more": None}, "[0].more: new"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_each_difference_is_told(monkeypatch: Any, changes: dict[str, Any], told: str, exact: bool) -> None:
    monkeypatch.setattr(support, "exact", lambda: exact)

    assert list(support.differences([GOLDEN[0] | changes], GOLDEN)) == [told]


def test_last_bits_count_on_the_kind_of_machine_that_recorded(monkeypatch: Any) -> None:
    almost = [GOLDEN[0] | {"score": 0.5 + 1e-12}]
    monkeypatch.setattr(support, "exact", lambda: False)
    assert list(support.differences(almost, GOLDEN)) == []
    monkeypatch.setattr(support, "exact", lambda: True)
    assert len(list(support.differences(almost, GOLDEN))) == 1


def test_rows_that_are_new_and_rows_that_are_missing_are_shown() -> None:
    with pytest.raises(AssertionError, match=r'(?s)-\{"a": 1\}.*\+\{"a": 2\}'):
        support.assert_same_rows([{"a": 2}], [{"a": 1}])
