"""Reasons: what was seen, what is usual, and what would have kept the level lower."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import BadFeature, Item, Sentence
from trustwatch.ingest.features.feature_table import FEATURE_INDEX, FEATURES, ITEMS
from trustwatch.scoring.engine.explanations import MAX_NAME_LENGTH, ReasonWriter, check_explanations, sanitize_text


def settled(kit: Any, make: Any) -> tuple[Any, int]:
    """A processor that knows agent 2 from its model's history, and the number of targets that the agent used there."""
    return kit.processor(), len(
        {e["resource"]["target"] for e in make.stream(1, 2_000) if e["agent"]["id"] == "agent-2"}
    )


def later(make: Any, number: int, target: str, **more: Any) -> dict[str, Any]:
    at = make.START_MS + 10**9 + number * 600_000
    return dict(make.event(1000 + number, 2, at, resource={"target": target}, **more))


def test_first_seen_target_is_named_with_the_usual_count(kit: Any, make: Any) -> None:
    """A target that an agent never used comes among the strongest reasons, with its name and how many are known."""
    processor, known = settled(kit, make)
    scored = processor.engine.score(kit.columns([later(make, 0, "evil.example")]))
    (reasons,) = processor.engine.explainer.reasons(scored, [0])
    assert "evil.example" in reasons[0].observed
    (target,) = [reason for reason in reasons if reason.code == "first_seen_target"]
    assert target.observed == "evil.example"
    assert target.usual == f"{known} known targets of this agent"
    assert "new target evil.example" in target.text
    assert 0.0 < target.contribution <= 1.0


def test_reasons_speak_of_what_was_known_then(kit: Any, make: Any) -> None:
    """The usual count is that of the moment before the event, also when later events of the same batch widened it."""
    processor, known = settled(kit, make)
    scored = processor.engine.score(kit.columns([later(make, n, f"new-{n}") for n in range(3)]))
    told = processor.engine.explainer.reasons(scored, [0])[0]
    usual = [reason.usual for reason in told if reason.feature == "target_surprise"]
    assert usual == [f"{known} known targets of this agent"]


@pytest.mark.parametrize(
    ("member", "feature", "observed", "noun"),
    [
        ("bytes_out", "answer_size_surprise", "90,000,000 bytes from read", "answer sizes"),
        ("bytes_in", "request_size_surprise", "90,000,000 bytes to read", "request sizes"),
    ],
)
def test_an_odd_size_is_told_in_bytes(kit: Any, make: Any, member: str, feature: str, observed: str, noun: str) -> None:
    """An answer or request of another order of size than ever before is named with its bytes, action and the usual."""
    processor = kit.processor()
    usual = [later(make, n, "host-2-1", session=f"s-{n}", **{member: 900}) for n in range(30)]
    processor.engine.builder.observe_and_learn(kit.columns(usual))  # learned, whatever they score
    scored = processor.engine.score(kit.columns([later(make, 30, "host-2-1", session="s", **{member: 9e7})]))
    (reasons,) = processor.engine.explainer.reasons(scored, [0])
    (size,) = [reason for reason in reasons if reason.feature == feature]
    assert size.code == f"first_seen_{feature.removesuffix('_surprise')}"
    assert size.observed == observed
    told = FEATURES[FEATURE_INDEX[feature]].explanation
    assert isinstance(told, Item)
    known = int(scored.known_items[0, told.kind])
    assert size.usual == f"{known} known {noun.removesuffix('s') if known == 1 else noun} of this agent"
    assert observed in size.text


def test_a_slow_drift_is_told_by_its_quantity(kit: Any, make: Any) -> None:
    """Which of pace and volume has drifted furthest, how many there are now, and what the last weeks had."""
    processor = kit.processor()
    usual = [later(make, 3 * n, "host-2-1", session=f"s-{n}", bytes_in=100, bytes_out=900) for n in range(240)]
    columns = kit.columns(usual)
    with processor.engine.agent_states.arriving(columns):
        processor.engine.builder.observe_and_learn(columns)
    busy = [dict(later(make, 1000, "host-2-1", session="s", bytes_in=100, bytes_out=900)) for _ in range(400)]
    scored = processor.engine.score(kit.columns([event | {"id": f"b-{n}"} for n, event in enumerate(busy)]))
    reason = next(one for one in processor.engine.explainer.reasons(scored, [399])[0] if one.feature == "drift")
    assert reason.observed == "400,000 bytes in the last hour (older ones count less)"
    assert reason.usual == "about 3,815 bytes in the last hour (older ones count less)"
    assert reason.text.startswith("slow drift, ") and reason.text.endswith(f"{reason.observed}; usual {reason.usual}")


@pytest.mark.parametrize(
    ("feature", "value", "text", "usual"),
    [
        (
            "repeat_surprise",
            9.0,
            "read again, more often in one session than is known of it (very unusual)",
            "known counts of repeated actions",
        ),
        ("write_surprise", 20.0, "new target evil.example in a delete call (very unusual)", "known targets"),
        ("session_strangeness", 64.0, "unusual steps have gathered over the last events of the session", "few of them"),
        ("scope_gap", 0.5, "50% of the requested scopes not granted", "are expected"),
        (
            "outside_capabilities",
            1.0,
            "read is not among the agent's declared capabilities",
            "its declared capabilities",
        ),
        (
            "method_downgrade",
            2.0,
            "weaker method than the strongest that is known of this agent: private_key_jwt key-",
            "stronger",
        ),
    ],
)
def test_each_feature_has_words_of_its_own(
    kit: Any, make: Any, feature: str, value: float, text: str, usual: str
) -> None:
    """What is told is a sentence for a person at night, not a feature's definition with a number behind it."""
    processor, _ = settled(kit, make)
    events = [later(make, 0, "evil.example", session="one", effect="delete") | {"id": f"r-{n}"} for n in range(20)]
    scored = processor.engine.score(kit.columns(events))
    row = 19 if feature == "repeat_surprise" else 0
    vector, shares = np.zeros((2, len(FEATURE_INDEX)))
    vector[FEATURE_INDEX[feature]], shares[FEATURE_INDEX[feature]] = value, 1.0
    narrator = ReasonWriter(processor.engine.builder.baseline)
    (reason,) = narrator.reasons(
        scored.columns,
        row,
        scored.agent_numbers[row],
        scored.known_items[row],
        scored.observations,
        vector,
        shares,
        (),
    )
    assert text in reason.text
    assert usual in reason.usual


class Guess(NamedTuple):
    """An explanation that nobody has a sentence for."""


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (Guess(), "feature 'scope_gap': reasons have no sentence for the explanation Guess"),
        (None, "have no sentence for the explanation NoneType"),
        (
            Sentence("{value}", "none", "{ranks} too weak"),
            "names unknown values ranks; there are action, argument_routes, credential, foreign_arguments",
        ),
        (
            Sentence("{}", "none", "too weak"),
            "there are action, argument_routes, credential, foreign_arguments, sensitive_routes, value",
        ),
    ],
)
def test_what_has_no_words_is_refused(told: Any, error: str) -> None:
    """A feature that nobody can put into words is an error where reasons are imported, not another one's sentence."""
    check_explanations(FEATURES)
    declared = [one._replace(explanation=told) if one.name == "scope_gap" else one for one in FEATURES]
    with pytest.raises(BadFeature) as caught:
        check_explanations(declared)
    assert error in str(caught.value)


def test_every_feature_has_words(kit: Any, make: Any) -> None:
    """A reason can be given of each column of the vector, and nothing is left open in it."""
    processor, _ = settled(kit, make)
    scored = processor.engine.score(kit.columns([later(make, 0, "evil.example", bytes_in=5, bytes_out=9)]))
    narrator = ReasonWriter(processor.engine.builder.baseline)
    for feature in FEATURES:
        vector, shares = np.zeros((2, len(FEATURE_INDEX)))
        vector[FEATURE_INDEX[feature.name]], shares[FEATURE_INDEX[feature.name]] = 1.0, 1.0
        (reason,) = narrator.reasons(
            scored.columns,
            0,
            scored.agent_numbers[0],
            scored.known_items[0],
            scored.observations,
            vector,
            shares,
            (),
        )
        assert reason.feature == feature.name and "{" not in reason.text


WEIRD = ("\x1b[31mred\x07\nsecond line", "\u202egnp.exe", "x" * 2048, "𝒩🦊", "<script>alert(1)</script>", "a\tb\x00c")


@pytest.mark.parametrize("name", WEIRD)
def test_reasons_are_bounded_and_printable(kit: Any, make: Any, name: str) -> None:
    """Names of any kind leave one printable line of bounded length."""
    processor, _ = settled(kit, make)
    odd = later(
        make,
        0,
        name,
        action=name,
        peer=name,
        principal={"id": name},
        scopes={"requested": [name] * 30},
        delegation=[name] * 30,
        credential={"method": name, "thumbprint": name},
        agent_capabilities=[],
        client={"ip": name},
    )
    scored = processor.engine.score(kit.columns([odd]))
    (reasons,) = processor.engine.explainer.reasons(scored, [0])
    assert len(reasons) >= 3
    for reason in reasons:
        for text in (reason.observed, reason.usual, reason.text):
            assert text.isprintable()
            assert len(text) <= 2 * MAX_NAME_LENGTH + 150


def test_plain_keeps_ordinary_text() -> None:
    """Only what cannot be shown is replaced, and a cut is visible."""
    assert sanitize_text("naïve — 测试") == "naïve — 测试"
    assert sanitize_text("a\nb") == "a\ufffdb"
    assert sanitize_text("x" * 300) == "x" * 199 + "…"


def test_times_in_reasons_are_utc(kit: Any, make: Any) -> None:
    """An event with another offset is told in UTC, as the text says."""
    processor, _ = settled(kit, make)
    odd = later(make, 0, "host-0")
    odd["time"] = "2025-12-06T03:30:00+05:00"
    scored = processor.engine.score(kit.columns([odd]))
    assert ITEMS[layout.K_HOUR].name(scored.columns.events[0]) == "Friday 22:30 UTC"
