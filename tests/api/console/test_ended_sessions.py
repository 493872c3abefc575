"""Ends of sessions: after a sign-out no copy of its cookie opens a page in any process."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from trustwatch.api.console import console_sessions
from trustwatch.api.console.console_sessions import (
    GRACE_S,
    KEY_PREFIX,
    ConsoleSession,
    ConsoleSessions,
    EndedSessions,
    new_session,
    session_key,
)
from trustwatch.api.settings.service_settings import MAX_SESSION_S
from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.partition_store import MetadataStore


@pytest.fixture
def ended(site: Any) -> EndedSessions:
    site.store.metadata.delete_prefix(KEY_PREFIX)
    return EndedSessions(site.store.metadata, site.clock)


def cookie_of(site: Any) -> tuple[str, str]:
    return next((one.name, one.value) for one in site.browser.cookies.jar if "sign-in" not in one.name)


def session_of(site: Any) -> ConsoleSession:
    key = session_key(site.settings.console, site.settings.data_dir)
    session = ConsoleSessions(key, site.clock).open(cookie_of(site)[1])
    assert session is not None
    return session


def sessions(site: Any, count: int) -> list[ConsoleSession]:
    return [new_session({"sub": "u"}, "soc", "sub", site.clock()) for _ in range(count)]


def away(*_: Any) -> Any:
    raise Unavailable("away")


def test_a_sign_out_counts_in_every_process_and_behind_a_restart(site: Any, ended: EndedSessions) -> None:
    first, other = sessions(site, 2)
    site.wait(ended.end(first))
    restarted = EndedSessions(site.store.metadata, site.clock)
    assert [site.wait(restarted.has_ended(one)) for one in (first, other)] == [True, False]
    (key,) = site.store.metadata.find(KEY_PREFIX)
    assert first.session_id not in key


def test_no_number_of_ends_has_one_forgotten(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_sessions, "MAX_REMEMBERED", 2)
    ended, many = EndedSessions(site.store.metadata, site.clock), sessions(site, 7)
    for one in many:
        site.wait(ended.end(one))
    assert all(site.wait(ended.has_ended(one)) for one in many)


def test_ends_are_kept_for_as_long_as_any_setting_lets_a_session_last(site: Any, ended: EndedSessions) -> None:
    (first,) = sessions(site, 1)
    site.wait(ended.end(first))
    site.clock.now += MAX_SESSION_S - 1
    (second,) = sessions(site, 1)
    site.wait(ended.end(second))
    assert len(site.store.metadata.find(KEY_PREFIX)) == 2
    site.clock.now += 2
    (third,) = sessions(site, 1)
    site.wait(ended.end(third))
    assert len(site.store.metadata.find(KEY_PREFIX)) == 2


def test_pages_and_streams_ask_for_ends_that_others_heard(site: Any, ended: EndedSessions) -> None:
    site.sign_in("soc")
    assert site.browser.get("/console/").status_code == 200
    site.wait(ended.end(session_of(site)))
    assert site.browser.get("/console/").status_code == 303
    assert "event: end" in site.browser.get("/console/live").text


def test_without_the_database_only_sessions_that_just_lasted_go_on(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []
    monkeypatch.setattr(MetadataStore, "get", lambda _, key: tries.append(key) or away())
    site.sign_in("soc")
    assert [site.browser.get("/console/agents").status_code for _ in range(3)] == [200] * 3
    assert len(tries) == 1  # the database is left alone for some seconds
    site.clock.now += GRACE_S + 1
    refused = site.browser.get("/console/")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_who_asks_much_buys_no_ended_session_time(site: Any, ended: EndedSessions, monkeypatch: Any) -> None:
    monkeypatch.setattr(console_sessions, "LOOK_UP_S", 0.05)
    go, (one, *others) = threading.Event(), sessions(site, 3)
    for session in (one, *others):
        ended.note_begun(session)
    get = MetadataStore.get
    monkeypatch.setattr(MetadataStore, "get", lambda store, key: get(store, key) if go.wait(30) else None)

    async def ask() -> Any:
        waiting = [asyncio.create_task(ended.has_ended(session)) for session in others]
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="too many sessions"):
            await ended.has_ended(one)
        go.set()
        return await asyncio.gather(*waiting)

    assert site.wait(ask()) == [False, False]


def test_a_sign_out_that_the_database_did_not_take_is_told_and_written_later(
    site: Any, ended: EndedSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This browser and this process forget the session at once, the others as soon as the database answers."""
    site.sign_in("soc")
    name, copy = cookie_of(site)
    session = session_of(site)
    with monkeypatch.context() as broken:
        broken.setattr(MetadataStore, "put_default", away)
        out = site.post("/console/sign-out")
        assert (out.status_code, out.headers["location"]) == (303, "/console/sign-in?said=out-here")
        assert "Max-Age=0" in out.headers["set-cookie"]
        assert "as soon as it does" in site.browser.get(out.headers["location"]).text
        site.browser.cookies.set(name, copy)
        assert site.browser.get("/console/").status_code == 303
        assert not site.wait(ended.has_ended(session))
        assert site.wait(ended.end(session)) is False
    site.wait(ended.save_waiting())
    assert site.wait(EndedSessions(site.store.metadata, site.clock).has_ended(session))


def test_a_sign_out_is_saved_whatever_becomes_of_older_ones(
    site: Any, ended: EndedSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetadataStore, "delete_range", away)
    assert site.wait(ended.end(sessions(site, 1)[0])) is True
