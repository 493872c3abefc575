"""Alerts and dead letters: alerts with their status at each target; rejected records, their bytes, and a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.delivery.notifiers.alert_content import AlertContent, parse_alert
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.store.searches import FilteredPage

from ...alerts.service import AlertService, DeliveryFilters
from ...events.intake import Receipt
from ...events.service import DeadLetterService
from ..lists import LevelStep, group_escalations, text_filters
from ..page_dependencies import Cursor, FormDep, PageAdministratorDep, PageRequest, Text
from ..rendering import url_with_query

# Bytes of an external sender are shown as text if they are text, otherwise as a hex dump. They are never interpreted.

MAX_GROUPED: Final = 500  # Letters that are grouped; older ones are reached page by page
MAX_DISPLAYED_BYTES: Final = 16_384  # Bytes of one record that a page shows; the API gives all of them
HEX_LINE_BYTES: Final = 16
_HIDDEN_RATIO: Final = 0.05

router = APIRouter()

AskedLettersDep = Annotated[dict[str, str], Depends(text_filters("source", "reason", "state"))]


@router.get("/dead-letters")
async def list_dead_letters(visit: PageAdministratorDep, asked: AskedLettersDep, cursor: Cursor = "") -> Response:
    """Show the newest dead letters in groups, and those of the selected group."""
    dead_letters, replayed = visit.get(DeadLetterService), {"waiting": False, "replayed": True}.get(asked["state"])
    source, reason = asked["source"], asked["reason"]
    page = await dead_letters.list(visit.caller, replayed, MAX_GROUPED, cursor or None)
    by_cause: dict[tuple[str, str], list[DeadLetter]] = {}
    for stored in page.items:
        by_cause.setdefault((stored.source, stored.reason), []).append(stored)
    groups = [
        _DeadLetterGroup(
            *cause, len(some), sum(not one.replayed_ms for one in some), max(one.received_ms for one in some)
        )
        for cause, some in by_cause.items()
    ]
    return visit.render(
        "dead_letters.html",
        groups=sorted(groups, key=lambda group: (-group.letters, group.source, group.reason)),
        looked_at=len(page.items),
        letters=[one for one in page.items if source in ("", one.source) and reason in ("", one.reason)][:100],
        filters=asked,
        counts=await dead_letters.counts(visit.caller),
        next_cursor=page.next_cursor,
        sees_all=dead_letters.sees_all(visit.caller),
        first_page=not cursor,
    )


@router.get("/dead-letters/{letter_id}")
async def show_dead_letter(letter_id: str, visit: PageAdministratorDep) -> Response:
    return _dead_letter_page(visit, await visit.get(DeadLetterService).get(visit.caller, letter_id))


@router.post("/dead-letters/{letter_id}/replay")
async def replay_dead_letter(letter_id: str, visit: PageAdministratorDep) -> Response:
    """Submit the record again, with the rights of its sender."""
    dead_letters = visit.get(DeadLetterService)
    stored = await dead_letters.get(visit.caller, letter_id)
    try:
        receipt = await dead_letters.replay(visit.caller, letter_id, as_sender=True)
    except TrustwatchError as error:
        return _dead_letter_page(visit, stored, trouble=str(error), status=400)
    return _dead_letter_page(visit, await dead_letters.get(visit.caller, letter_id), receipt=receipt)


def _dead_letter_page(
    visit: PageRequest, letter: DeadLetter, *, trouble: str = "", receipt: Receipt | None = None, status: int = 200
) -> Response:
    settings = visit.runtime.settings
    senders = {caller.name for caller in settings.callers} | {topic.name for topic in settings.brokers.topics}
    return visit.render(
        "dead_letter.html",
        status,
        letter=letter,
        raw=display_bytes(letter.raw),
        trouble=trouble,
        receipt=receipt,
        sender_known=letter.source in senders,
    )


class _DeadLetterGroup(NamedTuple):
    """Dead letters of one source with one reason: their number, how many were not replayed, and the last time."""

    source: str
    reason: str
    letters: int
    waiting: int
    newest_ms: int


class ReadableBytes(NamedTuple):
    kind: str  # `text` or `hex`
    lines: Sequence[str]  # without line ends; nothing in them moves or hides other text
    size: int  # bytes there are
    omitted: int  # bytes that are not shown


def display_bytes(raw: bytes, most: int = MAX_DISPLAYED_BYTES) -> ReadableBytes:
    """Return *raw* in a readable form.

    Text is UTF-8 of which at most one character in twenty is unprintable; those are shown as U+FFFD, so that neither
    control characters nor marks of direction can change how the rest is read.
    """
    part, omitted = raw[:most], max(0, len(raw) - most)
    try:
        text: str | None = part.decode()
    except UnicodeDecodeError as error:
        is_cut = omitted and error.start >= len(part) - 3  # the limit has cut a character in two
        text = part[: error.start].decode() if is_cut else None
    hidden = sum(not (sign.isprintable() or sign in "\n\r\t") for sign in text or "")
    if text is None or hidden > _HIDDEN_RATIO * len(text):
        return ReadableBytes("hex", _hex_dump(part), len(raw), omitted)
    shown = "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text.replace("\r\n", "\n"))
    return ReadableBytes("text", shown.split("\n"), len(raw), omitted)


def _hex_dump(raw: bytes) -> list[str]:
    """Return a hex dump with 16 bytes a line.

    >>> _hex_dump(b"GIF89a\\x00\\xff")
    ['00000000  47 49 46 38 39 61 00 ff                          |GIF89a..|']
    """
    lines = []
    for at in range(0, len(raw), HEX_LINE_BYTES):
        part = raw[at : at + HEX_LINE_BYTES]
        signs = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<{HEX_LINE_BYTES * 3}} |{signs}|")
    return lines


STATUS_WORDS: Final = {
    "dead": "given up",
    "failed": "refused for good",
    "pending": "waits for its next attempt",
    "suppressed": "held back: already sent within the cool-down",
    "delivered": "arrived",
}
"""States of a delivery, the worst first."""

AskedDep = Annotated[dict[str, str], Depends(text_filters("tenant", "status", "target", "key"))]


class _ShownAlert(NamedTuple):
    """One alert at all its targets: its first delivery has what all have in common."""

    content: AlertContent
    deliveries: Sequence[Delivery]

    @property
    def first(self) -> Delivery:
        return self.deliveries[0]

    @property
    def decision_id(self) -> str:
        key = self.first.key
        return key.removeprefix(ALERT_KEY_PREFIX) if key.startswith(ALERT_KEY_PREFIX) else ""

    @property
    def step(self) -> LevelStep | None:
        if self.content.kind != "level" or self.content.previous is None:
            return None
        return LevelStep(self.content.identity, self.content.previous, self.content.level, self.first.created_ms)


def _content_of(delivery: Delivery) -> AlertContent:
    """Return the content of an alert; an actuator's row is described by its kind."""
    try:
        decoded: Any = msgspec.json.decode(delivery.payload)
    except msgspec.DecodeError:
        decoded = {}
    event = decoded if isinstance(decoded, dict) and "specversion" in decoded else {}
    content = parse_alert(event)
    if event:
        return content
    level = RiskLevel(delivery.level).label
    title = f"Token policy of {level}" if delivery.kind == "action" else f"{delivery.kind.capitalize()} of {level}"
    subject = decoded.get("agent_id", "") if isinstance(decoded, dict) else ""
    return replace(content, title=title, subject=str(subject))


def delivery_words(delivery: Delivery) -> str:
    """Return the state of a delivery as a sentence."""
    if delivery.status == "pending" and delivery.attempts == 0:
        return "waits for its first attempt"
    return STATUS_WORDS.get(delivery.status, delivery.status)


@router.get("/alerts")
async def list_alerts(visit: PageAdministratorDep, asked: AskedDep, cursor: Cursor = "", tested: Text = "") -> Response:
    """Show the alerts, newest first, each with its state at every target."""
    trouble, page, alerts = "", FilteredPage[Delivery]([], None, 0), visit.get(AlertService)
    targets = [webhook.name for webhook in visit.runtime.settings.webhooks]
    filters = asked | {"status": asked["status"] if asked["status"] in STATUS_WORDS else ""}
    try:
        tenant, status, target, key = (filters[name] or None for name in ("tenant", "status", "target", "key"))
        page = await alerts.search(visit.caller, DeliveryFilters(tenant, status, target, key=key), cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
    by_key: dict[str, list[Delivery]] = {}
    for delivery in page.items:
        by_key.setdefault(delivery.key, []).append(delivery)
    shown = [_ShownAlert(_content_of(deliveries[0]), deliveries) for deliveries in by_key.values()]
    return visit.render(
        "alerts.html",
        400 if trouble else 200,
        filters=filters,
        climbs=group_escalations(shown, lambda alert: alert.step),
        page=page,
        state_words=delivery_words,
        targets=targets,
        options=[(name, name) for name in targets],
        stopped=await alerts.stopped_targets(),
        trouble=trouble,
        tested=tested,
        first_page=not cursor,
    )


@router.post("/alerts/test")
async def send_test_alert(visit: PageAdministratorDep, form: FormDep) -> Response:
    rows = await visit.get(AlertService).send_test(visit.caller, form.get("target") or None)
    only = rows[0].key if len(rows) == 1 else None
    return RedirectResponse(url_with_query("/console/alerts", key=only, tested=str(len(rows))), 303)
