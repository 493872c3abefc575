"""How fresh answers are, from the reports of one pipeline."""

from __future__ import annotations

from trustwatch.scoring.pipeline.ipc import NOT_MEASURED, PipelineStatus, PipelineUpdate


def report(status: PipelineStatus, now_ms: int, offset: int, behind: int, risk_offset: int) -> None:
    status.apply_report(PipelineUpdate([], [], offset, behind, {}, {}, risk_offset=risk_offset), now_ms)


def test_answers_are_as_fresh_as_what_they_have_passed() -> None:
    """Answers ahead of the commit count; one that does not say where the log ends proves nothing of its own time."""
    status = PipelineStatus()
    report(status, 1_000, offset=0, behind=50, risk_offset=0)
    assert status.fresh_ms == 0
    report(status, 2_000, offset=0, behind=NOT_MEASURED, risk_offset=49)
    assert status.fresh_ms == 0
    report(status, 3_000, offset=0, behind=NOT_MEASURED, risk_offset=50)
    assert (status.fresh_ms, status.offset, status.records_behind) == (1_000, 0, 50)
    report(status, 4_000, offset=50, behind=0, risk_offset=50)
    assert (status.fresh_ms, status.records_behind) == (4_000, 0)
