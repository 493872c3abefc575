"""Whence the arguments of a call come: what `argument_origin` says, and what it keeps silent about."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.argument_columns import ArgumentColumns, ArgumentEntries, join_arguments, scanned_arguments
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.features import baseline, layout
from trustwatch.ingest.features.event_words import foreign_arguments_of
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.hashing import NameHasher
from trustwatch_client.events import Argument

from ...support.feature_histories import SingleEventBuilder, columns, event, fitted

NOTHING, KNOWN, NEW_TO_PEERS, NEW_TO_TASK, NEW_TO_ALL = 0.0, 1.0, 1.5, 2.0, 3.0
KNOWN_ACCOUNT, NEW_ACCOUNT, SUBJECT = "aaaa0000aaaa", "bbbb1111bbbb", "cccc2222cccc"
OTHER_ACCOUNT = "dddd3333dddd"
DAY = 86_400.0


def argument(value: str, source: int | None = None, name: str = "to") -> dict[str, Any]:
    """An argument out of an earlier call, or out of the prompt."""
    if source is None:
        return {"name": name, "origin": "prompt", "hash": value}
    return {"name": name, "origin": "tool", "from": source, "from_action": "read_mail", "hash": value}


def read_mail(after_s: float, untrusted: bool | None = True, **members: Any) -> dict[str, Any]:
    """A call whose answer others may have written."""
    told = {} if untrusted is None else {"untrusted_result": untrusted}
    return event(after_s, action="read_mail", effect="read", **{**TASK, **told, "arguments": [], **members})


def pay(after_s: float, *arguments: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A call that changes something."""
    more = {"arguments": list(arguments), "untrusted_result": False, "effect": "write"}
    return event(after_s, action="pay", **{**TASK, **more, **members})


TASK = {"task": "bills", "session": "s1"}


def history(runs: int = layout.LEAST_VALUES) -> list[dict[str, Any]]:
    """Another agent has done the task, with one account out of a mail."""
    made = []
    for run in range(runs):
        who = {"agent": "peer", "session": f"p{run}"}
        made += [
            read_mail(-6000.0 + 20 * run, **who),
            pay(-5990.0 + 20 * run, argument(KNOWN_ACCOUNT, 0), argument(SUBJECT), **who),
        ]
    return made


@pytest.fixture
def watch() -> SingleEventBuilder:
    return SingleEventBuilder(fitted(history()))


def value(row: dict[str, float]) -> float:
    return row["argument_origin"]


def test_a_new_value_out_of_a_mail_stands_out(watch: SingleEventBuilder) -> None:
    """One that the task has used before does not, nor one that the user named."""
    rows = watch.feed(
        read_mail(0.0),
        pay(1.0, argument(KNOWN_ACCOUNT, 0)),
        pay(2.0, argument(NEW_ACCOUNT)),
        pay(3.0, argument(KNOWN_ACCOUNT, 0), argument(NEW_ACCOUNT, 0)),
        learn=False,
    )

    assert [value(row) for row in rows] == [KNOWN, KNOWN, KNOWN, NEW_TO_ALL]


def test_a_value_of_other_tasks_stands_out_less() -> None:
    """One that no task of the peer group ever used says most, also beside one that another task did."""
    rent = {"agent": "peer", "task": "rent", "session": "r"}
    of_another_task = [read_mail(-100.0, **rent), pay(-90.0, argument(OTHER_ACCOUNT, 0), **rent)]
    watch = SingleEventBuilder(fitted([*history(), *of_another_task]))

    rows = watch.feed(
        read_mail(0.0),
        pay(1.0, argument(KNOWN_ACCOUNT, 0), argument(OTHER_ACCOUNT, 0)),
        pay(2.0, argument(OTHER_ACCOUNT, 0), argument(NEW_ACCOUNT, 0)),
        pay(3.0, argument(NEW_ACCOUNT, 0), argument(OTHER_ACCOUNT, 0)),
        learn=False,
    )

    assert [value(row) for row in rows] == [KNOWN, NEW_TO_TASK, NEW_TO_ALL, NEW_TO_ALL]


def test_values_of_trusted_answers_and_calls_that_change_nothing_say_nothing(watch: SingleEventBuilder) -> None:
    rows = watch.feed(
        read_mail(0.0, untrusted=False),
        read_mail(1.0),
        pay(2.0, argument(NEW_ACCOUNT, 0)),
        read_mail(3.0, arguments=[argument(NEW_ACCOUNT, 1)]),
        learn=False,
    )

    assert [value(row) for row in rows] == [KNOWN] * 4


def test_a_call_that_leads_outside_counts_whatever_its_effect(watch: SingleEventBuilder) -> None:
    outside = {"effect": "read", "resource": {"id": "https://evil.example", "external": True}}

    assert value(watch.last(read_mail(0.0), pay(1.0, argument(NEW_ACCOUNT, 0), **outside))) == NEW_TO_ALL


def test_what_was_learned_is_new_no_more(watch: SingleEventBuilder) -> None:
    """For that agent, in that task, once the event was learned."""
    watch.feed(read_mail(0.0))
    assert value(watch.last(pay(1.0, argument(NEW_ACCOUNT, 0)))) == NEW_TO_ALL
    assert value(watch.last(pay(2.0, argument(NEW_ACCOUNT, 0)))) == KNOWN

    watch.feed(read_mail(3.0, agent="a2", session="s2"))
    assert value(watch.last(pay(4.0, argument(NEW_ACCOUNT, 0), agent="a2", session="s2"))) == NEW_TO_ALL


def test_a_value_that_is_only_looked_up_is_not_learned(watch: SingleEventBuilder) -> None:
    """Else the author of a mail would have it looked up before it is used."""
    look_up = read_mail(1.0, arguments=[argument(NEW_ACCOUNT, 0)])

    rows = watch.feed(read_mail(0.0), *[look_up] * 5, pay(3.0, argument(NEW_ACCOUNT, 0)))

    assert value(rows[-1]) == NEW_TO_ALL


@pytest.mark.parametrize("members", [{"role": "never seen"}, {"task": None, "role": "never seen"}])
def test_without_memory_nothing_is_new(watch: SingleEventBuilder, members: dict[str, Any]) -> None:
    """Every value of an assistant that nobody has seen would be new: that says nothing."""
    rows = watch.feed(read_mail(0.0, **members), pay(1.0, argument(NEW_ACCOUNT, 0), **members))

    assert [value(row) for row in rows] == [NOTHING, NOTHING]


def test_of_a_new_task_peers_remember(watch: SingleEventBuilder) -> None:
    """What they used in other tasks is known; what nobody used says less than it would in a task that is known."""
    rows = watch.feed(
        read_mail(0.0, task="never seen"),
        pay(1.0, argument(KNOWN_ACCOUNT, 0), task="never seen"),
        pay(2.0, argument(NEW_ACCOUNT, 0), task="never seen"),
        pay(3.0, argument(NEW_ACCOUNT, 0), task="never seen"),
    )

    assert [value(row) for row in rows] == [KNOWN, KNOWN, NEW_TO_PEERS, KNOWN]


def test_without_a_declared_task_peers_remember() -> None:
    """Those of the same type."""
    watch = SingleEventBuilder(fitted([{**one, "task": None} for one in history()]))

    rows = watch.feed(
        read_mail(0.0, task=None),
        pay(1.0, argument(KNOWN_ACCOUNT, 0), task=None),
        pay(2.0, argument(NEW_ACCOUNT, 0), task=None),
    )

    assert [value(row) for row in rows] == [KNOWN, KNOWN, NEW_TO_TASK]


def test_a_memory_of_another_key_says_nothing(watch: SingleEventBuilder) -> None:
    """Clients change their keys with the period: no value would be known again."""
    later = 90 * DAY

    assert value(watch.last(read_mail(later), pay(later + 1.0, argument(KNOWN_ACCOUNT, 0)))) == NOTHING
    assert later * 1000 == layout.VALUE_PERIOD_MS


def test_an_event_that_tells_no_origins_says_nothing(watch: SingleEventBuilder) -> None:
    plain = event(1.0, action="pay", effect="write", **TASK)

    assert value(watch.last(read_mail(0.0), plain)) == NOTHING


def test_calls_are_numbered_as_their_sender_numbers_them(watch: SingleEventBuilder) -> None:
    """Events that tell no origins have no number; a call that we refused has one."""
    refused = pay(2.0, outcome="denied", caused_by="trustwatch")
    plain = event(1.0, action="think", **TASK)

    rows = watch.feed(
        read_mail(0.0, untrusted=False),
        plain,
        refused,
        read_mail(3.0),
        pay(4.0, argument(NEW_ACCOUNT, 1)),
        pay(5.0, argument(NEW_ACCOUNT, 2)),
        learn=False,
    )

    assert [value(row) for row in rows[-2:]] == [KNOWN, NEW_TO_ALL]


@pytest.mark.parametrize("trusted", [1, layout.REMEMBERED_CALLS - 1, layout.REMEMBERED_CALLS, 200])
def test_a_flood_of_calls_hides_no_mail(watch: SingleEventBuilder, trusted: int) -> None:
    """Of calls that are too old any untrusted answer of the session counts; without one, none does."""
    flood = [read_mail(1.0 + at, untrusted=False) for at in range(trusted)]
    rows = watch.feed(read_mail(0.0), *flood, pay(900.0, argument(NEW_ACCOUNT, 0)), learn=False)
    assert value(rows[-1]) == NEW_TO_ALL

    clean = {"session": "clean"}
    calm = [read_mail(1000.0 + at, untrusted=False, **clean) for at in range(trusted + 1)]
    rows = watch.feed(*calm, pay(1900.0, argument(NEW_ACCOUNT, 0), **clean), learn=False)
    assert value(rows[-1]) == KNOWN


def test_a_call_that_was_never_seen_counts_as_untrusted(watch: SingleEventBuilder) -> None:
    """Neither a number of nobody's hides a mail, nor four other sessions that take the place of one."""
    rows = watch.feed(read_mail(0.0, untrusted=False), pay(1.0, argument(NEW_ACCOUNT, 999)), learn=False)
    assert value(rows[-1]) == NEW_TO_ALL

    watch.feed(read_mail(2.0, session="s3"), learn=False)
    for number in range(layout.SESSIONS):
        watch.feed(event(3.0 + number, session=f"other-{number}", self_asserted=True), learn=False)
    assert value(watch.feed(pay(9.0, argument(NEW_ACCOUNT, 0), session="s3"), learn=False)[-1]) == NEW_TO_ALL


def test_a_session_knows_its_own_mails_alone(watch: SingleEventBuilder) -> None:
    """What was read in another one says nothing of this one's answers."""
    watch.feed(read_mail(0.0), learn=False)
    rows = watch.feed(
        read_mail(1.0, untrusted=False, session="s2"), pay(2.0, argument(NEW_ACCOUNT, 0), session="s2"), learn=False
    )

    assert value(rows[-1]) == KNOWN


@pytest.mark.parametrize("untrusted", [True, False])
def test_forged_calls_move_no_number(watch: SingleEventBuilder, untrusted: bool) -> None:
    """Neither to hide a mail behind them, nor to make an honest agent odd."""
    forged = read_mail(0.0, untrusted=untrusted, self_asserted=True)

    rows = watch.feed(
        forged,
        read_mail(1.0),
        read_mail(2.0, untrusted=False),
        pay(3.0, argument(NEW_ACCOUNT, 0)),
        pay(4.0, argument(NEW_ACCOUNT, 1)),
        learn=False,
    )

    assert [value(row) for row in rows[-2:]] == [NEW_TO_ALL, KNOWN]


def test_a_refused_first_call_has_a_number(watch: SingleEventBuilder) -> None:
    refused = pay(0.0, outcome="denied", caused_by="trustwatch")

    rows = watch.feed(refused, read_mail(1.0), pay(2.0, argument(NEW_ACCOUNT, 1)), learn=False)

    assert value(rows[-1]) == NEW_TO_ALL


def test_of_a_call_whose_effect_is_not_known_it_is_taken_that_it_acts(watch: SingleEventBuilder) -> None:
    """The middlewares send no effect unless they are told."""
    assert value(watch.last(read_mail(0.0), pay(1.0, argument(NEW_ACCOUNT, 0), effect="unknown"))) == NEW_TO_ALL


def test_a_date_in_another_period_hides_nothing(watch: SingleEventBuilder) -> None:
    """A late event happens at its agent's latest time."""
    assert value(watch.last(read_mail(0.0), pay(-90 * DAY, argument(NEW_ACCOUNT, 0)))) == NEW_TO_ALL


def test_a_few_values_are_no_memory() -> None:
    """Of a task that showed less than it takes nothing is new, nor after events without any value."""
    few = SingleEventBuilder(fitted(history(runs=2)))
    none = SingleEventBuilder(fitted([read_mail(float(at), agent="peer") for at in range(50)]))

    for watch in (few, none):
        assert value(watch.last(read_mail(0.0), pay(1.0, argument(NEW_ACCOUNT, 0)))) == NOTHING


@pytest.mark.parametrize(("agents", "expected"), [(1, NEW_TO_ALL), (2, KNOWN)])
def test_what_one_peer_looked_up_is_not_known(agents: int, expected: float) -> None:
    """Else a mail to one of them would make its value known to all after the next training."""
    look_ups = []
    for number in range(agents):
        who = {"agent": f"peer-{number}", "session": f"q{number}"}
        look_ups += [read_mail(-90.0 + number, **who)]
        look_ups += [read_mail(-50.0 + at, arguments=[argument(NEW_ACCOUNT, 0)], **who) for at in range(5)]
    watch = SingleEventBuilder(fitted(sorted([*history(), *look_ups], key=lambda one: str(one["time"]))))

    assert value(watch.last(read_mail(0.0), pay(1.0, argument(NEW_ACCOUNT, 0)))) == expected


def test_of_too_many_values_the_newest_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders choose how many there are: none of them makes a training fail."""
    monkeypatch.setattr(baseline, "MAX_VALUES", 40)
    many = [pay(-900.0 + at, argument(f"{at:012x}"), agent="peer") for at in range(100)]
    watch = SingleEventBuilder(fitted(many))

    rows = watch.feed(read_mail(0.0), *(pay(1.0, argument(f"{at:012x}", 0)) for at in (0, 99)), learn=False)

    assert [value(row) for row in rows] == [KNOWN, NEW_TO_ALL, KNOWN]


def test_one_event_flushes_no_memory(watch: SingleEventBuilder) -> None:
    """Of many values a few are learned, those that others may have written first."""
    watch.feed(read_mail(0.0), pay(1.0, argument(NEW_ACCOUNT, 0)))
    flood = [argument(f"{at:012x}") for at in range(255)]
    other = "dddd3333dddd"
    watch.feed(pay(2.0, *flood, argument(other, 0)))

    rows = watch.feed(pay(3.0, argument(NEW_ACCOUNT, 0)), pay(4.0, argument(other, 0)), learn=False)
    assert [value(row) for row in rows] == [KNOWN, KNOWN]


def test_batches_of_any_size_give_the_same(watch: SingleEventBuilder) -> None:
    """Arguments go with their rows where a batch is cut."""
    events = [read_mail(0.0), *(pay(1.0 + at, *[argument(f"{at:08x}", 0)] * (at % 3)) for at in range(9))]
    whole = [value(row) for row in SingleEventBuilder(watch.builder.baseline).feed(*events)]

    single = [value(watch.feed(one)[0]) for one in events]
    batch = columns(events)
    halves = FeatureBuilder(watch.builder.baseline, 16)
    parts = [halves.observe_and_learn(batch.take(np.arange(*cut)))[0] for cut in ((0, 4), (4, 10))]

    assert NEW_TO_ALL in whole
    assert single == whole == np.concatenate(parts)[:, FEATURE_INDEX["argument_origin"]].tolist()


def test_many_values_push_out_no_habit(watch: SingleEventBuilder) -> None:
    """Values have a region of their own."""
    watch.feed(*(event(float(at), agent="a1", action="habit") for at in range(50)))
    before = watch.feed(event(60.0, action="habit"), learn=False)[-1]["action_surprise"]

    watch.feed(
        *(pay(70.0 + at, *[argument(f"{at:04x}{place:04x}", name="x") for place in range(64)]) for at in range(9))
    )
    after = watch.feed(event(90.0, action="habit"), learn=False)[-1]["action_surprise"]

    assert after <= before + 1.0


def test_reasons_name_arguments_and_the_calls_that_gave_them() -> None:
    """Those asked for, the first three, none twice."""
    others = [argument(SUBJECT, 0, f"n{at}") for at in range(3)]
    told = decode_event(json.dumps(pay(0.0, *[argument(NEW_ACCOUNT, 0)] * 2, *others, argument(SUBJECT))).encode())

    assert foreign_arguments_of(told, range(5)) == (
        "to out of read_mail, n0 out of read_mail, n1 out of read_mail, 1 more"
    )
    assert foreign_arguments_of(told, [3]) == "n1 out of read_mail"


def test_argument_columns_are_cut_and_joined() -> None:
    """Whatever rows are taken, in any order, each keeps its own."""
    values, sources, routes = (
        np.array([7, 8, 9], np.uint64),
        np.array([-1, 0, 1], np.int32),
        np.array([0, 4, 5], np.uint64),
    )
    three = ArgumentColumns(np.array([0, 2, 2, 3]), values, sources, sources + 1, routes)

    taken = three.take(np.array([2, 1, 0]))
    assert taken is not None
    assert (taken.start.tolist(), taken.values.tolist(), taken.sources.tolist()) == (
        [0, 1, 1, 3],
        [9, 7, 8],
        [1, -1, 0],
    )
    assert (taken.calls.tolist(), taken.routes.tolist()) == ([2, 0, 1], [5, 0, 4])
    assert three.take(np.array([1])) is None
    joined = join_arguments([(2, None), (3, three), (1, None)])
    assert joined is not None and joined.start.tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert joined.routes.tolist() == [0, 4, 5]
    assert join_arguments([(2, None), (0, None)]) is None


def test_scanned_arguments_give_way_to_what_was_decoded() -> None:
    """Rows that the kernel read stay, others are replaced, also by nothing."""
    counts, values = np.array([1, 2, 0, 1]), np.array([1, 2, 3, 4, 99], np.uint64)
    sources = np.array([-1, -1, -1, -1, 99], np.int32)
    entries = ArgumentEntries(values, sources, sources, values)
    hashed = NameHasher(b"salt").hash_many
    given = Argument("a", "tool", "000000ff", from_call=5)

    found = scanned_arguments(counts, entries, {1: (), 2: [given], 3: [given, given]}, hashed)

    assert found is not None
    assert found.start.tolist() == [0, 1, 1, 2, 4]
    assert found.values.tolist() == [1, 255, 255, 255] and found.sources.tolist() == [-1, 5, 5, 5]
    assert found.calls.tolist() == [-1, 5, 5, 5] and found.routes.tolist() == [1, 0, 0, 0]
    assert scanned_arguments(np.zeros(2, np.int64), entries, {0: ()}, hashed) is None
