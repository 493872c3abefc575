"""Figures by concern: the norm is chosen on what is not judged, and a new task is not in the history."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detection import concern_figures
from benchmarks.detection.concern_figures import COMPROMISE_NORMS, Part, Scores, unhashed, untold
from benchmarks.detection.split_trace import split_test_part
from benchmarks.detection.traces import Trace
from trustwatch.ingest.columns import UNTRACED, UNTRUSTED_RESULT

from ..support.feature_histories import columns, event
from ..support.trace_sets import assistants_of, trace

GOOD, BAD = 2, 8


def parts_of(one: Trace) -> list[Part]:
    return concern_figures._parts(one)


def scores(part: Part, best: int, rows: np.ndarray | None = None) -> Scores:
    """Scores that tell bad from good under one norm alone, in *rows*; under the others the other way round."""
    truth = np.array([float(label["session_label"]) for label in part.trace.labels])
    told = {}
    for norm in COMPROMISE_NORMS:
        right = np.full(len(truth), norm == best)
        if rows is not None:
            right[rows] = norm != best
        told["compromise", norm] = np.where(right, truth, 1.0 - truth)
    return told


def test_the_norm_of_a_set_is_chosen_on_the_other_sets() -> None:
    """What is best on the judged one does not matter, nor a set of another concern."""
    dojo, dyn, ats = (trace(name, ("bank", "shop")) for name in ("agentdojo", "agentdyn", "ats"))
    parts = [part for one in (dojo, dyn, ats) for part in parts_of(one)]
    whole = {part.name: part for part in parts if part.name == part.set_name}
    of = {"agentdojo": scores(whole["agentdojo"], BAD), "agentdyn": scores(whole["agentdyn"], GOOD)}

    assert concern_figures._chosen_norm(whole["agentdojo"], parts, of) == GOOD
    assert concern_figures._chosen_norm(whole["agentdyn"], parts, of) == BAD


def test_the_norm_of_an_assistant_is_chosen_on_the_others_of_its_set_too() -> None:
    """Never on its own sessions."""
    one = trace("agentdojo", ("bank", "shop"))
    parts = parts_of(one)
    bank = next(part for part in parts if part.name == "agentdojo, bank")
    of = {"agentdojo": scores(parts[0], GOOD, bank.rows)}

    assert [part.name for part in parts] == ["agentdojo", "agentdojo, bank", "agentdojo, shop"]
    assert concern_figures._chosen_norm(bank, parts, of) == GOOD


def test_parts_know_the_whole_history() -> None:
    """Each has the rows of one assistant, and the scores of these rows are those of its events."""
    one = trace("agentdojo", ("bank", "shop"))
    for name, part, rows in split_test_part(one):
        assert assistants_of(part.train) == {"bank", "shop"} and assistants_of(part.test) == {name}
        assert [one.test[row] for row in rows.tolist()] == part.test


def test_a_new_task_is_in_no_history() -> None:
    """And nothing else is judged."""
    one = trace("agentdojo", ("bank", "shop"), tasks=4)
    held = frozenset({"task_0", "task_2", "t"})

    part = concern_figures._without_tasks(one, held)

    assert {event["task"] for event in part.trace.test_events} == {"task_0", "task_2"}
    assert part.trace.train == [] and len(part.trace.labels) == len(part.trace.test) == len(part.rows)


def test_without_hashes_origins_are_told() -> None:
    """The route of a value stays, the value goes; events without arguments stay as they are."""
    one = {"name": "to", "origin": "tool", "from": 0, "from_action": "read", "hash": "aaaaaaaa"}
    batch, plain = columns([event(arguments=[one])]), columns([event()])

    told = unhashed(batch).arguments

    assert told is not None and batch.arguments is not None
    assert told.values.tolist() == [0] and batch.arguments.values.tolist() != [0]
    assert told.routes.tolist() == batch.arguments.routes.tolist() != [0]
    assert unhashed(plain).arguments is None


@pytest.mark.parametrize("told", [{"untrusted_result": True}, {"attributes": {"untrusted_result": True}}])
def test_untold_origins_leave_everything_else(told: dict[str, object]) -> None:
    one = {"name": "to", "origin": "prompt", "hash": "aaaaaaaa"}
    batch = columns([event(arguments=[one], **told)])

    silent = untold(batch)

    assert batch.codes[0, UNTRUSTED_RESULT] == 1 and silent.codes[0, UNTRUSTED_RESULT] == UNTRACED
    assert silent.arguments is None and batch.arguments is not None
    np.testing.assert_array_equal(silent.codes[:, :UNTRUSTED_RESULT], batch.codes[:, :UNTRUSTED_RESULT])
    np.testing.assert_array_equal(silent.names, batch.names)
