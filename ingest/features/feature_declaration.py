"""Declare features, and check all declarations.

A feature is explained to people in one of eight ways. They are data: `scoring.engine.explanations` makes the sentences,
and raises an error at import for a kind without a sentence. An item and a quantity are declared in the row of the
feature that measures them, so everything named after them is declared there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, get_args

from ..events import NativeEvent
from . import layout

BITS, Z, SHARE, FLAG, RANK = "bits", "z", "share", "flag", "rank"
UNIT_WORDS = {BITS: "surprise", Z: "distance from the usual", SHARE: "share", FLAG: "yes or no", RANK: "rank"}
"""Units as text, as they are displayed."""
_HIGH = {BITS: 64.0, Z: 50.0, SHARE: 1.0, FLAG: 1.0, RANK: 5.0}

EACH_TIME, ONCE, BY_LEVEL = "each time", "once", "by level"
"""How often the same thing counts as evidence within a day: in every event; once, by the item's name; once for each
whole standard deviation or bit (see `scoring.engine.evidence_dedup`)."""


class Item(NamedTuple):
    """The feature is the surprise of an item.

    *first*, *forgotten* and *unusual* begin its sentence, with `{noun}` and `{name}`: of an item that the agent never
    learned; of an item that it may have learned and forgotten; and of an item that it knows.
    """

    kind: int  # layout.K_…; each has one such feature
    plural: str
    name: Callable[[NativeEvent], str]
    behind: int = -1  # kind of the item that it is conditional on, -1 = none
    singular: str = ""  # "" = plural without its s
    profile: str = ""  # what the console's profile of an agent calls them; "" = they are not in it
    first: str = "new {noun} {name}"
    forgotten: str = "{noun} {name}, which is not remembered of it"
    unusual: str = "{noun} {name}"

    @property
    def singular_noun(self) -> str:
        """The word for a single item."""
        return self.singular or self.plural.removesuffix("s")


class Quantity(NamedTuple):
    """The feature is the distance of a quantity from its usual value."""

    quantity: int  # layout.Q_…; each has one such feature
    form: str  # text of its amount, `{}`; for a count that fades, it says so
    label: str  # what the lab's profile of an agent calls it
    unit: str
    profile: tuple[str, str] | None = None  # name and unit in the console's profile; None = it is not in it


class Carried(NamedTuple):
    """The feature measures another aspect of an item that has a separate feature; the item's sentence explains it."""

    kind: int
    among_peers: bool = False  # it is measured against the peer group, so what is counted is the group's


class PeersKnow(NamedTuple):
    """The feature measures how much better peers explain the items of an event than the agent's own past does."""

    kinds: tuple[int, ...]


class Strongest(NamedTuple):
    """The feature weighs the largest of several surprises by the call's effect; that item explains it."""

    kinds: tuple[int, ...]


class Drifted(NamedTuple):
    """The feature is the distance of a quantity from its slow reference (`layout.DRIFT_QUANTITIES`)."""


class Compared(NamedTuple):
    """The feature compares the habits of an agent with those of its peers (`habits_of_others`)."""


class Sentence(NamedTuple):
    """The feature does not measure a single item or quantity. It has texts for the observed value, the usual value, and
    the whole sentence.

    They are formats over `{value}`, the feature's value, where people can check it, and the event's `{action}`,
    `{credential}` and `{foreign_arguments}`.
    """

    observed: str
    usual: str
    text: str


Explanation = Item | Quantity | Carried | PeersKnow | Strongest | Drifted | Compared | Sentence
_WITHOUT_FEATURE = {layout.K_FROM, layout.K_ARGUMENT}
"""Kinds without a surprise feature: the first is only a context, and an event has several items of the second."""
_EXPLANATIONS = tuple(kind.__name__ for kind in get_args(Explanation))


class Feature(NamedTuple):
    """One column of the feature vector."""

    name: str
    noun: str  # what a reason calls it
    meaning: str
    explanation: Explanation  # how a reason words it
    family: str
    unit: str = BITS
    importance: float = 1.0  # how much it says about trust, 0 to 1: see `FEATURE_IMPORTANCE`
    label: str = ""  # name in lists of features, if another feature has the same noun
    counts: str = EACH_TIME
    new_with: tuple[int, ...] = ()  # kinds: if the item is new to the agent, the feature is necessarily anomalous
    restates: tuple[int, ...] = ()  # kinds: the feature measures the item as its own feature does, compared with others
    gathers: tuple[int, ...] = ()  # kinds whose surprise it gathers over events
    gathers_new: tuple[int, ...] = ()  # kinds whose first uses it gathers over events
    parts: tuple[str, ...] = ()  # features that `feature_vector.compose` makes it of; with them usual it is 0
    signalled: bool = False  # a hard signal refers to it: no operator's rule affects it
    added: bool = False  # its evidence is added to that of all others, by its own rate; 1 = it could have spoken
    caller: bool = False  # it says who calls: the reason names address and software, and comes before what was done
    compromise: bool = False  # evidence of who calls, what, where to, and with which rights
    overreach: bool = False  # evidence of an agent that does more, or may do more, than it used to

    @property
    def low(self) -> float:
        return 0.0

    @property
    def high(self) -> float:
        return _HIGH[self.unit]

    @property
    def gathering(self) -> bool:
        """True for a feature that measures how much has accumulated, whatever the items are."""
        return bool(self.gathers or self.gathers_new)


class BadFeature(ValueError):
    """Raised if a declaration contradicts itself or another."""


def check(features: Sequence[Feature]) -> None:
    """Check declarations. Raises BadFeature for the first one that contradicts itself or another."""
    for feature in features:
        wrong = _wrong(feature, {other.name: other for other in features})
        if wrong:
            raise BadFeature(f"feature table: {feature.name!r}: {wrong}")
    _check_once("name", [feature.name for feature in features], ())
    _check_once("label or noun", [label_of(feature) for feature in features], ())
    items = [feature.explanation.kind for feature in features if isinstance(feature.explanation, Item)]
    _check_once("kind of item", items, set(range(layout.KINDS)) - _WITHOUT_FEATURE)
    quantities = [feature.explanation.quantity for feature in features if isinstance(feature.explanation, Quantity)]
    _check_once("quantity", quantities, range(layout.QUANTITIES))


def check_kinds(regions: Sequence[int], arguments: int) -> None:
    """Check the kinds of items that `layout` numbers. Raises BadFeature."""
    homeless = next((kind for kind, region in enumerate(regions) if region < 0), None)
    if homeless is not None:
        raise BadFeature(f"layout.py: kind {homeless} has no region: name it in `_KINDS_OF_REGION`")
    if arguments != len(regions) - 1:
        raise BadFeature("layout.py: K_ARGUMENT has to be the last kind: those behind it would not be counted")


def label_of(feature: Feature) -> str:
    """Return the short name for lists of features."""
    return feature.label or feature.noun


def _wrong(feature: Feature, by_name: dict[str, Feature]) -> str:
    explanation = feature.explanation
    borrowed: tuple[int, ...] = ()
    if isinstance(explanation, Strongest | PeersKnow):
        borrowed = explanation.kinds
    elif isinstance(explanation, Carried):
        borrowed = (explanation.kind,)
    kinds = {*feature.new_with, *feature.restates, *feature.gathers, *feature.gathers_new, *borrowed}
    measured = {other.explanation.kind for other in by_name.values() if isinstance(other.explanation, Item)}
    missing = [part for part in feature.parts if part not in by_name]
    composed = [part for part in feature.parts if part in by_name and by_name[part].parts]
    by_level = isinstance(explanation, Quantity) or (feature.added and feature.unit == BITS)
    counts = {EACH_TIME: True, ONCE: isinstance(explanation, Item), BY_LEVEL: by_level}
    has_singular = not isinstance(explanation, Item) or explanation.singular_noun != explanation.plural
    facts = {
        f"unit {feature.unit!r}: there are {', '.join(_HIGH)}": feature.unit in _HIGH,
        f"importance {feature.importance}: 0 to 1": 0.0 <= feature.importance <= 1.0,
        f"counts {feature.counts!r}: names count once, quantities by level": counts.get(feature.counts, False),
        f"made of {', '.join(missing)}, which is not a feature": not missing,
        "made of a feature that is made of others: name the parts of that": not composed,
        "follows a kind of item that has no feature": kinds <= measured,
        f"no such explanation: {explanation!r}; there are {', '.join(_EXPLANATIONS)}": isinstance(
            explanation, Explanation
        ),
        "an item needs a singular if its plural has no s": has_singular,
    }
    return next((wrong for wrong, fine in facts.items() if not fine), "")


def _check_once(what: str, declared: Sequence[str | int], expected: Collection[str | int]) -> None:
    twice = [value for value, count in Counter(declared).items() if count > 1]
    missing = sorted(set(expected) ^ set(declared), key=str) if expected else []
    if twice or missing:
        problem = "that of none" if missing and missing[0] in expected else "not in layout.py"
        mistake = f"{twice[0]!r} is that of several" if twice else f"{missing[0]} is {problem}"
        raise BadFeature(f"feature table: each feature has a {what} of its own; {mistake}")
