"""A declaration that does not add up is refused before anything is measured with it."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.ingest.features import feature_table, layout
from trustwatch.ingest.features.feature_declaration import (
    BY_LEVEL,
    EACH_TIME,
    ONCE,
    BadFeature,
    Carried,
    Drifted,
    Feature,
    Item,
    Quantity,
    Strongest,
    check,
)
from trustwatch.ingest.features.feature_table import FEATURES


def with_one(which: str, changed: dict[str, Any]) -> list[Feature]:
    """The table with one row changed."""
    return [one._replace(**changed) if one.name == which else one for one in FEATURES]


@pytest.mark.parametrize(
    ("name", "changed", "refusal"),
    [
        ("scope_gap", {"explanation": None}, "'scope_gap': no such explanation: None"),
        ("scope_gap", {"explanation": "ungranted scopes"}, "no such explanation: 'ungranted scopes'"),
        ("scope_gap", {"unit": "percent"}, "unit 'percent': there are bits, z"),
        ("scope_gap", {"importance": 1.5}, "importance 1.5: 0 to 1"),
        ("scope_gap", {"counts": "twice"}, "counts 'twice'"),
        ("scope_gap", {"counts": ONCE}, "counts 'once': names count once, quantities by level"),
        ("target_surprise", {"counts": BY_LEVEL}, "counts 'by level'"),
        ("external_target", {"parts": ("aim_surprise",)}, "made of aim_surprise, which is no feature"),
        ("external_target", {"parts": ("write_surprise",)}, "name the parts of that"),
        ("outcome_surprise", {"new_with": (layout.K_FROM,)}, "follows a kind of item that has no feature"),
        ("external_target", {"explanation": Carried(layout.K_FROM)}, "follows a kind of item that has no feature"),
        ("write_surprise", {"explanation": Strongest((layout.KINDS,))}, "follows a kind of item that has no feature"),
        ("bytes_in", {"noun": "bytes out"}, "a label or noun of its own; 'bytes out' is that of several"),
        ("bytes_in", {"name": "bytes_out"}, "a name of its own; 'bytes_out' is that of several"),
        (
            "drift",
            {"explanation": Quantity(layout.Q_GAP, "{} s", "s", "s")},
            f"a quantity of its own; {layout.Q_GAP} is that",
        ),
        ("bytes_in", {"explanation": Drifted()}, f"a quantity of its own; {layout.Q_BYTES_IN} is that of none"),
        (
            "target_surprise",
            {"explanation": Drifted(), "counts": EACH_TIME},
            "follows a kind of item that has no feature",
        ),
        (
            "drift",
            {"explanation": Item(layout.KINDS, "places", str)},
            f"a kind of item of its own; {layout.KINDS} is not in",
        ),
        (
            "effect_surprise",
            {"explanation": Drifted()},
            f"a kind of item of its own; {layout.K_EFFECT} is that of none",
        ),
        ("peer_surprise", {"explanation": Item(layout.K_PEER, "sheep", str)}, "needs its singular"),
    ],
)
def test_features_declared_wrongly_are_refused(name: str, changed: dict[str, Any], refusal: str) -> None:
    """The error names what is wrong, and the feature where it is a single one."""
    with pytest.raises(BadFeature, match=r"^feature table: ") as caught:
        check(with_one(name, changed))
    assert refusal in str(caught.value)


def test_the_kinds_of_0_2_keep_their_numbers() -> None:
    assert layout.numbers_of_kinds(21).tolist() == list(range(21))


def test_features_declared_have_a_place_for_each_item_and_quantity() -> None:
    """Each kind of item but a context alone and values of arguments, and each quantity, has a position of its own."""
    places = [*feature_table.FEATURE_OF_KIND.tolist(), *feature_table.FEATURE_OF_QUANTITY.tolist()]
    without = [kind for kind in range(layout.KINDS) if feature_table.FEATURE_OF_KIND[kind] < 0]
    assert without == [layout.K_FROM, layout.K_ARGUMENT]
    assert len(set(places)) == len(places) - len(without) + 1  # those without one share -1
