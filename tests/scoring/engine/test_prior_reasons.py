"""Reasons of a rise that several events brought about."""

from __future__ import annotations

import itertools
from typing import Any

from trustwatch.scoring.engine.explanations import PRIOR_REASON_MARKER, with_prior_reasons
from trustwatch.scoring.records.decisions import RiskReason

AT_MS = 1_764_930_645_000  # 2025-12-05T10:30:45Z


def reason(feature: str, observed: str, contribution: float, code: str = "") -> RiskReason:
    return RiskReason(code or feature, feature, observed, "", contribution, f"{feature} {observed}")


GATHERED = reason("session_strangeness", "10.6 bits", 0.9)
MAIL = reason("action_surprise", "send_mail", 0.8)
HOST = reason("target_surprise", "mail.example", 0.1)


def test_the_same_is_told_once_and_by_the_event_itself() -> None:
    told = with_prior_reasons([MAIL], 2.0, [MAIL, HOST], 2.0, AT_MS)
    assert [one.observed for one in told] == ["send_mail", "mail.example"]
    assert PRIOR_REASON_MARKER not in told[0].text


def test_nothing_of_falls_feedback_or_faded_evidence() -> None:
    calmed = RiskReason("risk_relaxed", "risk", "low", "medium", 1.0, "no new evidence")
    assert with_prior_reasons([GATHERED], 1.0, [calmed], 1.0, AT_MS)[0].feature == "session_strangeness"
    assert with_prior_reasons([GATHERED], 1.0, [MAIL], 0.0, AT_MS) == (GATHERED,)
    assert len(with_prior_reasons([GATHERED], 99.0, [MAIL], 1.0, AT_MS)) == 1, "less than a fiftieth of the evidence"


def test_a_rise_names_what_was_odd_on_the_way_in_one_batch_or_many(kit: Any, make: Any) -> None:
    """Decisions of a stream with odd events: some speak of earlier ones, and of the same however they arrive."""
    events = make.stream(31, 900, agents=6, odd=0.2)
    records = kit.records(events)
    texts = []
    for size in (1, 900):
        processor, found, at = kit.processor(capacity=100), [], 0
        for batch in kit.batches(records, itertools.repeat(size)):
            applied = processor.apply(batch._replace(base_offset=at))
            at += len(batch.records)
            found += [tuple(one.text for one in made.reasons) for made in applied.decisions]
        texts.append(found)
    assert texts[0] == texts[1]
    assert any(PRIOR_REASON_MARKER in text for told in texts[0] for text in told)
