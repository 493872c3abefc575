"""Reasons: what was seen, what is usual, and what would have kept the level lower."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.scoring.engine.explanations import MAX_NAME_LENGTH


def settled(kit: Any, make: Any) -> tuple[Any, int]:
    """A processor that knows agent 2 from its model's history, and the number of targets that the agent used there."""
    return kit.processor(), len(
        {e["resource"]["target"] for e in make.stream(1, 2_000) if e["agent"]["id"] == "agent-2"}
    )


def later(make: Any, number: int, target: str, **more: Any) -> dict[str, Any]:
    at = make.START_MS + 10**9 + number * 600_000
    return dict(make.event(1000 + number, 2, at, resource={"target": target}, **more))


def test_reasons_speak_of_what_was_known_then(kit: Any, make: Any) -> None:
    """The usual count is that of the moment before the event, also when later events of the same batch widened it."""
    processor, known = settled(kit, make)
    scored = processor.engine.score(kit.columns([later(make, n, f"new-{n}") for n in range(3)]))
    told = processor.engine.explainer.reasons(scored, [0])[0]
    usual = [reason.usual for reason in told if reason.feature == "target_surprise"]
    assert usual == [f"{known} known targets of this agent"]


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
