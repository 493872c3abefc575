"""Settings of look-ups and of the event sender. Everything has a bound."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from .risk_answers import UNKNOWN_POLICY, TokenPolicy

FailMode = Literal["open", "closed", "last_known"]
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RiskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of risk look-ups.

    Attributes:
        fail_mode: what happens without an answer; it has no default, since nobody else can know. `open`: *unknown* with
            its policy, marked `fail_open`. `closed`: `TrustUnavailable`. `last_known`: what the service said last, if
            that is not older than `last_known_s`, else as `without_last_known` says.
        last_known_s: s, from 0.
        without_last_known: `open` or `closed`.
        budget_s: s, a look-up takes no longer than this; a late answer still reaches the cache.
        request_timeout_s: s, a request may go on for so long after those who asked have left.
        cache_s: s, an answer is given again for so long, and never past its `expires_at`; stale answers are not kept. 0
            asks each time. It delays what the service says by as much.
        cache_size: answers kept; the one not asked for longest makes room.
        accept_stale: false treats an answer that says `stale` as no answer.
        unknown_policy: the policy of *unknown* in open answers.
        pause_s: s, after a failure nobody asks for so long, or as `Retry-After` says: a dead service costs no budget.
        max_in_flight: agents asked for at one time; more are `busy`.
        workers: threads that ask (sync client).
    """

    fail_mode: FailMode
    last_known_s: float = 300.0
    without_last_known: Literal["open", "closed"] = "closed"
    budget_s: float = 0.05
    request_timeout_s: float = 2.0
    cache_s: float = 1.0
    cache_size: int = 10_000
    accept_stale: bool = True
    unknown_policy: TokenPolicy = UNKNOWN_POLICY
    pause_s: float = 0.5
    max_in_flight: int = 1_000
    workers: int = 4

    def __post_init__(self) -> None:
        if self.fail_mode not in ("open", "closed", "last_known"):
            raise ValueError(f"fail_mode is {self.fail_mode!r}; it is open, closed or last_known")
        _require_positive(self, "budget_s", "request_timeout_s", "cache_size", "max_in_flight", "workers")
        _require_not_negative(self, "last_known_s", "cache_s", "pause_s")


class SenderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the event sender.

    Attributes:
        source: `source` of events that name none; with it and the id an event is known again.
        queue_size: events that wait; when full the oldest is dropped and counted.
        batch_events, batch_bytes: most of one request.
        linger_s: s, a batch waits so long for company.
        request_timeout_s: s.
        backoff_s, backoff_most_s: s, first and longest wait between attempts, each drawn at random up to it.
    """

    source: str | None = None
    queue_size: int = 10_000
    batch_events: int = 500
    batch_bytes: int = 1 << 20
    linger_s: float = 0.2
    request_timeout_s: float = 10.0
    backoff_s: float = 0.2
    backoff_most_s: float = 30.0

    def __post_init__(self) -> None:
        _require_positive(
            self, "queue_size", "batch_events", "batch_bytes", "request_timeout_s", "backoff_s", "backoff_most_s"
        )
        _require_not_negative(self, "linger_s")
        if self.batch_events > 10_000 or self.batch_bytes > 8 << 20:
            raise ValueError("batch_events is at most 10,000 and batch_bytes at most 8 MiB: the service takes no more")


def validate_url(url: str, *, insecure_http: bool = False) -> str:
    """*url* without a trailing slash.

    Raises:
        ValueError: it is no http(s) URL, or would send tokens in clear to another machine.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError(f"{parts.hostname or 'the address'}: give a URL like https://trustwatch.example")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not insecure_http:
        raise ValueError(f"{parts.hostname}: http sends tokens in clear; use https, or insecure_http=True in a mesh")
    return url.rstrip("/")


def _require_positive(settings: msgspec.Struct, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must be above 0")


def _require_not_negative(settings: msgspec.Struct, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must not be below 0")
