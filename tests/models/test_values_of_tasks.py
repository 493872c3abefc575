"""How often a value or a route is new to a peer group, each task held out of what the group remembers."""

from __future__ import annotations

from typing import Any

from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.hashing import NameHasher
from trustwatch.models.model_training import rate_of_unnamed_targets, rates_of_new_tasks

from ..support.feature_histories import SALT, columns, event


def pair(
    at: int, task: str | None, value: str | None, role: str = "Clerk", effect: str = "write", name: str = "to"
) -> list[dict[str, Any]]:
    """A mail is read, and a value out of it is used, outside; without *value* it has no hash."""
    members: dict[str, Any] = {"session": f"s{at}", "role": role, **({} if task is None else {"task": task})}
    used = {"name": name, "origin": "tool", "from": 0, "from_action": "read"} | ({"hash": value} if value else {})
    mail = {"type": "mail", "id": "inbox"}
    read = event(2.0 * at, action="read", effect="read", arguments=[], untrusted_result=True, resource=mail, **members)
    outside = {"resource": {"id": "x", "external": True}} if effect != "read" else {}
    use = event(
        2.0 * at + 1, action="use", effect=effect, arguments=[used], untrusted_result=False, **outside, **members
    )
    return [read, use]


def rate(*pairs: list[dict[str, Any]], of: str = "argument_origin") -> float:
    batch = columns([one for made in pairs for one in made])
    baseline = empty_baseline(NameHasher(SALT).hash_many(["mail"]))
    _, observations = FeatureBuilder(baseline, 100).observe_and_learn(batch)
    return float(rates_of_new_tasks(batch, observations)[FEATURE_INDEX[of]])


def test_routes_that_one_task_alone_takes_are_new_without_it() -> None:
    """Of values without a hash among the events that have such, of sensitive answers among all that tell origins."""
    alone = [pair(at, "a", None, name="cc") for at in range(3)]
    both = [pair(3, "b", None), pair(4, "a", None)]
    hashed = [pair(5, "b", "aaaaaaaa")]

    assert rate(*alone, *both, *hashed, of="argument_route") == (1 + 3) / (1 + 5)
    assert rate(*alone, *both, *hashed, of="sensitive_route") == (1 + 3) / (1 + 12)
    assert rate(*alone, *both) == 1 / (1 + 10)  # no value is told: none is new


def test_values_that_one_task_alone_has_are_new_without_it() -> None:
    """However often it has them; those of two tasks are known to the other."""
    pairs = [pair(at, "a", "aaaaaaaa") for at in range(3)] + [pair(3, "b", "cccccccc"), pair(4, "a", "cccccccc")]

    assert rate(*pairs) == (1 + 3) / (1 + 10)


def test_only_what_could_be_foreign_counts() -> None:
    """Not what is only read, nor what another peer group does."""
    reads = [pair(at, "a", "aaaaaaaa", effect="read") for at in range(3)]
    others = [pair(5, "c", "dddddddd", role="Other")]  # one task: nothing is left when it is held out

    assert rate(*reads, pair(4, "b", "cccccccc"), *others) == (1 + 1) / (1 + 8)


def test_without_tasks_nothing_is_told_of_new_ones() -> None:
    """No event, no evidence: a rate of 1."""
    assert rate(pair(0, None, "aaaaaaaa"), pair(1, None, "bbbbbbbb")) == 1.0
    assert rate(pair(0, "a", "aaaaaaaa"), pair(1, "a", "bbbbbbbb")) == 1.0
    assert rate([event(0.0), event(1.0)]) == 1.0


def call(at: int, task: str | None, target: str | None, provenance: str | None, role: str = "Clerk") -> dict[str, Any]:
    resource = {name: value for name, value in (("id", target), ("provenance", provenance)) if value is not None}
    return event(float(at), resource=resource, role=role, **({} if task is None else {"task": task}))


def test_targets_that_nobody_named_and_one_task_alone_has() -> None:
    """Among the events that tell; one that another task of the peer group has, told or not, is known to that."""
    alone = [call(0, "a", "x", "derived"), call(1, "a", "x", "new"), call(2, "a", "y", "granted")]
    shared = [call(3, "a", "z", "derived"), call(4, "b", "z", None), call(5, "b", "v", "unknown")]
    others = [call(6, "b", "x", None, role="Other"), call(7, None, "w", "derived"), call(8, "b", None, "new")]

    assert rate_of_unnamed_targets(columns(alone + shared + others)) == (1 + 2) / (1 + 6)


def test_where_nobody_tells_or_no_task_is_left_a_target_is_no_evidence() -> None:
    assert rate_of_unnamed_targets(columns([call(0, "a", "x", None), call(1, "b", "y", None)])) == 1.0
    assert rate_of_unnamed_targets(columns([call(0, "a", "x", "derived"), call(1, "a", "y", "derived")])) == 1.0
