"""A declaration that does not add up is refused before anything is measured with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest import columns
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
    check_kinds,
)
from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURE_INDEX, FEATURES
from trustwatch.ingest.features.feature_vector import compose_rows
from trustwatch.ingest.features.row_observations import SENSITIVE


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
        ("external_target", {"parts": ("aim_surprise",)}, "made of aim_surprise, which is not a feature"),
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
        ("peer_surprise", {"explanation": Item(layout.K_PEER, "sheep", str)}, "needs a singular"),
    ],
)
def test_features_declared_wrongly_are_refused(name: str, changed: dict[str, Any], refusal: str) -> None:
    """The error names what is wrong, and the feature where it is a single one."""
    with pytest.raises(BadFeature, match=r"^feature table: ") as caught:
        check(with_one(name, changed))
    assert refusal in str(caught.value)


def test_kinds_of_items_are_complete() -> None:
    """Each has a region, and arguments come last; the message says where and what to do."""
    check_kinds(layout.REGION.tolist(), layout.K_ARGUMENT)
    with pytest.raises(BadFeature, match=r"^layout\.py: kind 1 has no region: name it in `_KINDS_OF_REGION`$"):
        check_kinds([0, -1, 2], 2)
    with pytest.raises(BadFeature, match=r"^layout\.py: K_ARGUMENT has to be the last kind"):
        check_kinds([0, 1, 2], 1)


@pytest.mark.parametrize("kinds", range(layout.KINDS, layout.KINDS + 20))
def test_a_new_kind_has_no_number_of_values_or_routes(kinds: int) -> None:
    """Kinds of before keep theirs, arguments that of values; none meets the numbers of contexts, which are behind."""
    numbers = layout.numbers_of_kinds(kinds).tolist()
    reserved = range(layout.VALUE_NUMBER, layout.NEXT_NUMBER)
    assert len(set(numbers)) == kinds
    assert numbers[:20] == list(range(20)) and numbers[-1] == layout.VALUE_NUMBER
    assert not set(numbers[:-1]) & set(reserved) and max(numbers) < 100
    assert layout.ROUTE_NUMBER + SENSITIVE in reserved


def test_the_kinds_of_0_2_keep_their_numbers() -> None:
    """What agents have learned lies under them."""
    assert layout.numbers_of_kinds(21).tolist() == list(range(21))


def test_features_declared_are_all_there() -> None:
    """The table itself is checked where it is imported, and a row without an explanation is not even one."""
    check(FEATURES)
    with pytest.raises(TypeError, match="explanation"):
        Feature("odd", "rarity", "how odd")  # type: ignore[call-arg]


def test_features_declared_have_a_place_for_each_item_and_quantity() -> None:
    """Each kind of item but a context alone and values of arguments, and each quantity, has a position of its own."""
    places = [*feature_table.FEATURE_OF_KIND.tolist(), *feature_table.FEATURE_OF_QUANTITY.tolist()]
    without = [kind for kind in range(layout.KINDS) if feature_table.FEATURE_OF_KIND[kind] < 0]
    assert without == [layout.K_FROM, layout.K_ARGUMENT]
    assert len(set(places)) == len(places) - len(without) + 1  # those without one share -1


def test_features_are_made_of_the_parts_that_they_declare() -> None:
    """`compose` writes the features with parts and no other; each follows all of its parts, and nothing else."""
    dice = np.random.default_rng(11)
    vectors, codes = dice.gamma(2.0, 4.0, (200, FEATURE_COUNT)), np.zeros((200, columns.CODES), np.int8)
    codes[:, columns.EFFECT], codes[:, columns.EXTERNAL] = dice.integers(0, 5, 200), 1
    made = vectors.copy()
    compose_rows(made, codes)
    composites = {one.name: set(one.parts) for one in FEATURES if one.parts}
    assert {FEATURES[at].name for at in np.flatnonzero((made != vectors).any(axis=0))} == set(composites)
    followed: dict[str, set[str]] = {name: set() for name in composites}
    for part in FEATURES:
        other = vectors.copy()
        other[:, FEATURE_INDEX[part.name]] = 0.0
        compose_rows(other, codes)
        for name in composites:
            if (other[:, FEATURE_INDEX[name]] != made[:, FEATURE_INDEX[name]]).any():
                followed[name].add(part.name)
    assert followed == composites
