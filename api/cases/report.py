"""A case as a document: for a ticket, a report, or a reader without an account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from pydantic import Field

from trustwatch.ingest.printable_text import printable_line
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import CaseAgent, CaseEntry, CaseId, SharedIndicator
from trustwatch.scoring.store.case_assignment import tie_words

from ..http.responses import encode_model
from ..http.wire import Wire
from .case_reports import CaseReport
from .timeline import TimelineItem


class CaseAgentOut(
    Wire, of=CaseAgent, omit=("agent.tenant",), rename={"peak": "highest_level", "last_ms": "last_risen_at"}
):
    """An agent of a case."""


class CaseEntryOut(Wire, of=CaseEntry):
    """An entry in the history of a case."""

    detail: dict[str, Any]


class SharedIndicatorOut(Wire, of=SharedIndicator, rename={"agents": "agents_count", "last_ms": "last_seen_at"}):
    """A new target, key or network of agents of a case."""


CASE_NAMES: Final = {
    "case.level": "highest_level",
    "case.lead_decision_id": "decision_id",
    "case.risen_ms": "last_risen_at",
    "case.agents": "agents_count",
    "case.decisions": "decisions_count",
}


class CaseOut(Wire, of=CaseReport, rename=CASE_NAMES):
    """A case with everything that is stored about it."""

    entries_before: int


class TimelineItemOut(Wire, of=TimelineItem):
    """An item of a case's timeline."""


class TimelineOut(Wire):
    """The timeline of a case."""

    case_id: CaseId
    items: list[TimelineItemOut] = Field(description="items, oldest first")


def case_out(report: CaseReport) -> CaseOut:
    """A case as it is answered."""
    return CaseOut.of(report, entries_before=report.entries_before or 0)


def timeline_out(case_id: str, items: Sequence[TimelineItem]) -> TimelineOut:
    """A timeline as it is answered."""
    return TimelineOut(case_id=case_id, items=[TimelineItemOut.of(item) for item in items])


def render_json(report: CaseReport, timeline: Sequence[TimelineItem]) -> bytes:
    """A case with its timeline as one JSON document, with the members of the API."""
    case, story = case_out(report), timeline_out(report.case.case_id, timeline)
    document = msgspec.json.decode(encode_model(case)) | {"timeline": msgspec.json.decode(encode_model(story))["items"]}
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


_ZERO_WIDTH_SPACE = "\u200b"
_MARKUP = str.maketrans({char: "\\" + char for char in r"\`*_{}[]()<>#+!|~"})


def render_markdown(report: CaseReport, timeline: Sequence[TimelineItem]) -> str:
    """A case with its timeline as Markdown. No name in it formats anything."""
    case = report.case
    lines = [
        f"# Case {_plain(case.case_id)}",
        "",
        f"- Status: {case.status}{f' as {case.verdict}' if case.verdict else ''}",
        f"- Highest level: {RiskLevel(case.level).label}",
        f"- Tenant: {_plain(case.tenant) or 'none'}",
        f"- Owner: {_plain(case.owner) or 'no one'}",
        f"- Opened: {format_rfc3339(case.opened_ms)}",
    ]
    for name, at_ms in (
        ("Acknowledged", case.acknowledged_ms),
        ("Contained", case.contained_ms),
        ("Closed", case.closed_ms),
    ):
        if at_ms:
            lines.append(f"- {name}: {format_rfc3339(at_ms)}")
    if report.reasons:
        lines += ["", "## Why", "", *(f"- {_plain(reason.text)}" for reason in report.reasons)]
    lines += ["", "## Agents", ""]
    lines += ["| agent | type | now | highest | joined | why it is here |", "| --- | --- | --- | --- | --- | --- |"]
    for case_agent in report.agents:
        why_here = _plain(tie_words(case_agent.tie, case_agent.tied_by)) or "it is the first"
        level, peak = RiskLevel(case_agent.level).label, RiskLevel(case_agent.peak).label
        cells = (_plain(case_agent.agent.agent_id), _plain(case_agent.agent_type), level, peak)
        lines.append(f"| {' | '.join(cells)} | {format_rfc3339(case_agent.joined_ms)} | {why_here} |")
    if report.shared:
        lines += ["", "## What was new to them", ""]
        for shared in report.shared:
            plural = "" if shared.agents == 1 else "s"
            lines.append(f"- {shared.kind} {_plain(shared.value)}: {shared.agents} agent{plural}")
    lines += ["", "## What happened", ""]
    for item in timeline:
        who = f" {_plain(item.agent_id)}:" if item.agent_id else ""
        came_with = ", ".join(f"{kind} {_plain(value)}" for kind, value in item.indicators)
        line = f"- {format_rfc3339(item.at_ms)} [{item.kind}]{who} {_plain(item.text)}"
        lines.append(line + (f" (came with: {came_with})" if came_with else ""))
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """*text* on one line, in which no character is mark-up.

    >>> print(_plain("a|b *c*"))
    a\\|b \\*c\\*
    """
    line = printable_line(text).translate(_MARKUP)
    for mark in ("@", "://", "www."):  # what trackers turn into a link or a mention
        line = line.replace(mark, mark[0] + _ZERO_WIDTH_SPACE + mark[1:])
    return line
