"""Rendering of pages, and static files named by their content."""

from __future__ import annotations

import hashlib
import math
import mimetypes
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import jinja2
import msgspec
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from trustwatch.ingest.printable_text import number_text, shown_controls
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import NEW_STATUSES, STATUS_WORDS, RiskLevel
from trustwatch.scoring.records.decisions import Decision

STATIC_URL_PREFIX = "/console/static/"
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


class StaticAsset(NamedTuple):
    body: bytes
    media_type: str
    digest: str


class StaticAssets(dict[str, StaticAsset]):
    """The files of `static/`, by path."""

    def __init__(self) -> None:
        super().__init__()
        root = Path(__file__).with_name("static")
        for file in filter(Path.is_file, root.rglob("*")):
            body, kind = file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/plain"
            asset = StaticAsset(body, kind, hashlib.sha256(body).hexdigest()[:16])
            self[file.relative_to(root).as_posix()] = asset

    def url(self, path: str) -> str:
        """Return the URL of a file, with a name that changes with its content. Raises KeyError."""
        return f"{STATIC_URL_PREFIX}{path}?v={self[path].digest}"


class MenuEntry(NamedTuple):
    """A page in the menu. *scope* is what a person needs to see the page and its entry.

    *badge* is the path of a part with how much waits there; "" = nothing is counted. *key* opens the page after `g`.
    """

    title: str
    path: str
    scope: str
    badge: str = ""
    key: str = ""


_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
LEVEL_SYMBOLS: Final[Mapping[str, str]] = {"unknown": "?", "low": "●", "medium": "▲", "high": "◆", "critical": "■"}
"""A shape for each level, for readers who cannot distinguish the colors."""


def template_environment(finalize: Callable[[Any], Any] | None = None) -> jinja2.Environment:
    """Return the template environment of the console, which escapes all external values."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(eq=False, repr=False)
class PageRenderer:
    """Renders the templates of pages; *navigation* is the menu."""

    assets: StaticAssets
    navigation: tuple[Any, ...]
    now_ms: Callable[[], int]

    def __post_init__(self) -> None:
        environment = template_environment(shown_value)
        environment.globals.update(
            asset=self.assets.url,
            agent_url=agent_url,
            levels=[level.label for level in RiskLevel],
            lead_reason=lead_reason,
            new_statuses=NEW_STATUSES,
            status_words=STATUS_WORDS,
        )
        environment.filters.update(
            when=self.time_with_age,
            level=level_badge,
            share=format_share,
            number=number_text,
            lasts=format_duration,
            query=url_with_query,
            reasons=reason_texts,
            at_ms=lambda time: int(time.timestamp() * 1000),
            word=lambda level: RiskLevel(level).label,
            clock=time_of_day,
            breakable=with_break_points,
        )
        self._environment = environment

    def page(self, request: Request, template: str, visit: Any, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a template; *visit* is None if no person is signed in."""
        given = {
            "visit": visit,
            "navigation": self.navigation,
            "path": request.url.path,
            "now_ms": self.now_ms(),
            "partial": "hx-request" in request.headers,
            **values,
        }
        return HTMLResponse(self._environment.get_template(template).render(given), status)

    def time_with_age(self, at_ms: int) -> Markup:
        """Render a UTC time with its age, for people and machines; 0 means never."""
        if not at_ms:
            return Markup("never")
        age = relative_age((self.now_ms() - at_ms) / 1000)
        return Markup('{} <span class="age" data-age="{}">{}</span>').format(
            exact_time(at_ms), format_rfc3339(at_ms), age
        )


def shown_value(value: Any) -> Any:
    """Render a value with direction marks and control characters written out, so that they have no effect.

    Markup stays unchanged. So do values of form fields, which end in `| e`, because they must be submitted as they
    were.
    """
    return shown_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def level_badge(word: str | int) -> Markup:
    """Render a risk level as a badge: shape, color and word."""
    name = RiskLevel(word).label if isinstance(word, int) else word
    return Markup('<span class="level level-{0}"><span class="mark" aria-hidden="true">{1}</span>{0}</span>').format(
        name, LEVEL_SYMBOLS.get(name, "?")
    )


def exact_time(at_ms: int) -> Markup:
    """Render a UTC time for people and machines; the browser shows it in the selected time zone.

    >>> str(exact_time(1_764_547_205_000))
    '<time datetime="2025-12-01T00:00:05.000Z">2025-12-01 00:00:05 UTC</time>'
    """
    exact = format_rfc3339(at_ms)
    return Markup('<time datetime="{}">{} UTC</time>').format(exact, exact[:19].replace("T", " "))


def time_of_day(at_ms: int) -> Markup:
    """Render the UTC time of day.

    >>> str(time_of_day(1_764_547_205_000))
    '<time datetime="2025-12-01T00:00:05.000Z" data-clock>00:00:05</time>'
    """
    exact = format_rfc3339(at_ms)
    return Markup('<time datetime="{}" data-clock>{}</time>').format(exact, exact[11:19])


def with_break_points(text: str) -> Markup:
    """Render a name that may be broken only between its parts as long as it fits.

    >>> str(with_break_points("CalendarAssistant"))
    'Calendar<wbr>Assistant'
    """
    return Markup("<wbr>").join(_WORD_BOUNDARY.split(shown_controls(text)))


def lead_reason(decision: Decision | None) -> str:
    """Return the strongest reason of a decision that names something; a sum of many small ones names nothing."""
    if decision is None:
        return "the decision is not kept any more"
    for reason in sorted(decision.reasons, key=lambda one: one.feature == "session_strangeness"):
        return reason.text
    words = {"tick": "time passed without new evidence", "release": "released by a person"}
    return words.get(decision.cause, decision.cause)


def reason_texts(encoded: bytes, most: int = 50) -> str:
    """Return the first reasons of an agent as text, from its JSON."""
    reasons = msgspec.json.decode(encoded) if encoded else []
    return "; ".join(str(reason.get("text", "")) for reason in reasons[:most])


def relative_age(seconds: float) -> str:
    """
    >>> relative_age(3), relative_age(200), relative_age(-5), relative_age(90_000)
    ('3 s ago', '3 min ago', 'now', '25 h ago')
    """
    if seconds < 1:
        return "now" if seconds > -60 else f"in {format_duration(-seconds)}"
    return f"{format_duration(seconds)} ago"


def format_duration(seconds: float) -> str:
    """Format a duration in its most informative unit.

    >>> [format_duration(seconds) for seconds in (0.25, 59, 150, 7200, 200_000)]
    ['250 ms', '59 s', '2 min', '2 h', '2 d']
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86_400)} d"


def format_share(value: float, digits: int = 2) -> str:
    """Format a share or score in [0, 1].

    >>> format_share(0.8765), format_share(float("nan"))
    ('0.88', '–')
    """
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def agent_url(tenant: str, issuer: str | None, agent_id: str, page: str = "agent", **more: str) -> str:
    """Return the URL of an agent's page; all three parts identify it and may contain any character. None: any issuer.

    *more* are further parameters, if they have a value.
    """
    named = {"tenant": tenant} | ({} if issuer is None else {"issuer": issuer}) | {"id": agent_id}
    return f"/console/{page}?{urlencode(named | {name: value for name, value in more.items() if value})}"


def url_with_query(path: str, **values: Any) -> str:
    """Return *path* with the parameters that have a value; lists repeat theirs."""
    given = {name: value for name, value in values.items() if value not in (None, "", [], ())}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path
