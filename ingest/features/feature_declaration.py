"""What the declaration of a feature says, and what must hold of all of them.

How a feature is told to people is one of six kinds of explanation. They are data: `scoring.reasons` makes the
sentences, and refuses at import a kind that it has none for. An item and a quantity are declared in the row of the
feature that measures them, so all that is called by their names stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, get_args

from ..events import NativeEvent
from . import layout

BITS, Z, SHARE, FLAG, RANK = "bits", "z", "share", "flag", "rank"
_HIGH = {BITS: 64.0, Z: 50.0, SHARE: 1.0, FLAG: 1.0, RANK: 5.0}

EACH_TIME, ONCE, BY_LEVEL = "each time", "once", "by level"
"""How often the same thing brings evidence within a day: in every event; once, by the item's name; once for each whole
standard deviation (see `scoring.counted`)."""


class Item(NamedTuple):
    """The feature is the surprise of an item. *first* and *unusual* begin its sentence, with `{noun}` and `{name}`."""

    kind: int  # layout.K_…; each has one such feature
    plural: str
    name: Callable[[NativeEvent], str]
    behind: int = -1  # kind of the item that it is conditional on, -1 = none
    singular: str = ""  # "" = plural without its s
    profile: str = ""  # what the console's profile of an agent calls them; "" = they are not in it
    first: str = "first use of {noun} {name}"
    unusual: str = "unusual {noun} {name}"

    @property
    def one(self) -> str:
        """The word for a single one."""
        return self.singular or self.plural.removesuffix("s")


class Quantity(NamedTuple):
    """The feature is the distance of a quantity from its usual value."""

    quantity: int  # layout.Q_…; each has one such feature
    form: str  # its amount, `{}`, in words
    label: str  # what the lab's profile of an agent calls it
    unit: str
    profile: tuple[str, str] | None = None  # name and unit in the console's profile; None = it is not in it


class Carried(NamedTuple):
    """The feature says something else of an item that has a feature of its own: its sentence is that of the item."""

    kind: int


class Strongest(NamedTuple):
    """The feature weighs the largest of several surprises by the call's effect: told is the item that it is."""

    kinds: tuple[int, ...]


class Drifted(NamedTuple):
    """The feature is the distance of a quantity from its slow reference (`layout.DRIFTING`)."""


class Sentence(NamedTuple):
    """The feature speaks of no single item or quantity: what was seen, what is usual, and the whole sentence.

    They are formats over `{value}`, the feature's value, and the event's `{action}` and `{credential}`.
    """

    observed: str
    usual: str
    text: str


Explanation = Item | Quantity | Carried | Strongest | Drifted | Sentence
_EXPLANATIONS = tuple(kind.__name__ for kind in get_args(Explanation))


class Feature(NamedTuple):
    """One column of the feature vector."""

    name: str
    family: str
    unit: str
    importance: float  # how much it says about trust, 0 to 1: see IMPORTANCE
    noun: str  # what a reason calls it
    meaning: str
    told: Explanation
    label: str = ""  # what a list of features calls it, where another one has the same noun
    counts: str = EACH_TIME
    new_with: tuple[int, ...] = ()  # kinds: where the item is new to the agent, the feature is odd of necessity
    restates: tuple[int, ...] = ()  # kinds: the feature says of the item what its own says, against others
    gathers: tuple[int, ...] = ()  # kinds whose surprise it gathers over events
    gathers_new: tuple[int, ...] = ()  # kinds whose first uses it gathers over events
    parts: tuple[str, ...] = ()  # features that `vector.compose` makes it of; with them usual it is 0
    signalled: bool = False  # a hard signal speaks of it: no rule of a person touches it

    @property
    def low(self) -> float:
        """Least value."""
        return 0.0

    @property
    def high(self) -> float:
        """Largest value."""
        return _HIGH[self.unit]

    @property
    def gathering(self) -> bool:
        """Whether it says how much has gathered, and not of what."""
        return bool(self.gathers or self.gathers_new)


class BadFeature(ValueError):
    """A declaration that does not add up."""


def check(features: Sequence[Feature]) -> None:
    """Hold declarations to what is read from them. Raises BadFeature for the first that does not add up."""
    for feature in features:
        wrong = _wrong(feature, {one.name: one for one in features})
        if wrong:
            raise BadFeature(f"feature table: {feature.name!r}: {wrong}")
    _check_once("name", [feature.name for feature in features], ())
    _check_once("label or noun", [label_of(feature) for feature in features], ())
    items = [feature.told.kind for feature in features if isinstance(feature.told, Item)]
    _check_once("kind of item", items, set(range(layout.KINDS)) - {layout.K_FROM})  # that one is a context alone
    quantities = [feature.told.quantity for feature in features if isinstance(feature.told, Quantity)]
    _check_once("quantity", quantities, range(layout.QUANTITIES))


def label_of(feature: Feature) -> str:
    """What a list of features calls it."""
    return feature.label or feature.noun


def _wrong(feature: Feature, known: dict[str, Feature]) -> str:
    """What is wrong with one declaration; "" = nothing."""
    kinds = (*feature.new_with, *feature.restates, *feature.gathers, *feature.gathers_new, *_told_of(feature.told))
    missing = [part for part in feature.parts if part not in known]
    facts = {
        f"unit {feature.unit!r}: there are {', '.join(_HIGH)}": feature.unit in _HIGH,
        f"importance {feature.importance}: 0 to 1": 0.0 <= feature.importance <= 1.0,
        f"counts {feature.counts!r}: names count once, quantities by level": _counts_well(feature),
        f"made of {', '.join(missing)}, which is no feature": not missing,
        "made of a feature that is made of others: name the parts of that": not any(
            known[part].parts for part in feature.parts if part in known
        ),
        "follows a kind of item that has no feature": all(_is_measured(kind, known.values()) for kind in kinds),
        f"no such explanation: {feature.told!r}; there are {', '.join(_EXPLANATIONS)}": isinstance(
            feature.told, Explanation
        ),
        "an item needs its singular where its plural has no s": not isinstance(feature.told, Item)
        or feature.told.one != feature.told.plural,
    }
    return next((wrong for wrong, fine in facts.items() if not fine), "")


def _told_of(told: Explanation) -> tuple[int, ...]:
    """Kinds whose items an explanation borrows."""
    if isinstance(told, Strongest):
        return told.kinds
    return (told.kind,) if isinstance(told, Carried) else ()


def _counts_well(feature: Feature) -> bool:
    fits = {EACH_TIME: True, ONCE: isinstance(feature.told, Item), BY_LEVEL: isinstance(feature.told, Quantity)}
    return fits.get(feature.counts, False)


def _is_measured(kind: int, features: Iterable[Feature]) -> bool:
    return any(isinstance(one.told, Item) and one.told.kind == kind for one in features)


def _check_once(what: str, found: Sequence[str | int], wanted: Collection[str | int]) -> None:
    twice = [one for one, count in Counter(found).items() if count > 1]
    missing = sorted(set(wanted) ^ set(found), key=str) if wanted else []
    if twice or missing:
        known = "that of none" if missing and missing[0] in wanted else "not in layout.py"
        told = f"{twice[0]!r} is that of several" if twice else f"{missing[0]} is {known}"
        raise BadFeature(f"feature table: each feature has a {what} of its own; {told}")
