"""The live stream: its events, its readers, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from trustwatch.api.console import live_updates
from trustwatch.api.console.live_updates import agent_event_name
from trustwatch.api.http.responses import encode_event
from trustwatch.scoring.pipeline.ipc import LevelChange


class Listening:
    def __init__(self, site: Any) -> None:
        self.lines: list[str] = []
        self.ended = threading.Event()
        self._open = threading.Event()
        self._more = threading.Condition()
        self._site = site
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._open.wait(10)

    def _read(self) -> None:
        cookies = dict(self._site.browser.cookies)
        with httpx2.stream(
            "GET", f"{self._site.url}/console/live", cookies=cookies, timeout=30, trust_env=False
        ) as got:
            for line in got.iter_lines():
                with self._more:
                    self.lines.append(line)
                    self._more.notify_all()
                self._open.set()
        self.ended.set()

    def wait_for(self, line: str) -> bool:
        with self._more:
            return self._more.wait_for(lambda: line in self.lines, 15)

    def wait_for_end(self) -> bool:
        return self.ended.wait(15)

    def close(self) -> None:
        self._site.inside(self._site.status.close)
        self._thread.join(15)


def test_a_change_of_a_level_is_told_to_those_who_may_know(
    new_site: Callable[..., Any], make_row: Any, make_decision: Any
) -> None:
    site = new_site()
    site.sign_in("soc")
    heard = Listening(site)
    assert heard.wait_for("event: opened")
    theirs, ours = make_row("their\nbot", tenant="globex", level=4), make_row("<b>our bot", level=4)
    site.know(theirs, decisions=(make_decision(theirs, 1),))
    site.know(ours, decisions=(make_decision(ours, 2),))

    assert heard.wait_for("event: change")
    assert heard.wait_for(f"event: {agent_event_name('acme', '<b>our bot')}")
    assert heard.wait_for("event: said")
    heard.close()
    text = "\n".join(heard.lines)
    assert heard.ended.is_set()
    assert "&lt;b&gt;our bot is now critical" in text and "<b>" not in text
    assert agent_event_name("globex", "their\nbot") not in text and "globex" not in text and "their" not in text


def test_pages_load_again_what_changed_before_they_listened(site: Any, make_row: Callable[..., Any]) -> None:
    site.know(make_row("quick"))
    site.sign_in("soc")
    for path in ("/console/", "/console/decisions", "/console/agent?tenant=acme&id=quick"):
        assert "sse:opened" in site.browser.get(path).text


def test_a_stream_ends_with_its_session(new_site: Callable[..., Any], make_row: Any, make_decision: Any) -> None:
    site = new_site()
    site.sign_in("soc")
    heard = Listening(site)
    site.clock.now += 28_801
    row = make_row("late", level=4)
    site.know(row, decisions=(make_decision(row, 3),))

    assert heard.wait_for("event: end")
    assert "event: change" not in heard.lines
    heard.close()


def test_an_open_page_keeps_no_session_alive(site: Any) -> None:
    site.sign_in("soc")
    for _ in range(3):
        site.clock.now += 1100
        with site.browser.stream("GET", "/console/live") as stream:
            assert (stream.status_code, "set-cookie" in stream.headers) == (200, False)
    site.clock.now += 400
    told = site.browser.get("/console/live")

    assert told.text == "event: end\ndata: over\n\n"
    assert site.browser.get("/console/").status_code == 303


def test_a_stream_outlives_no_session_however_busy_it_is(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_updates, "TICK_INTERVAL_S", 0.05)
    site.sign_in("soc")
    heard = Listening(site)
    site.clock.now += 3000
    assert site.browser.get("/console/").status_code == 200  # prolongs the session, not the stream's copy
    site.clock.now += 700
    assert heard.wait_for_end()
    assert "event: end" not in heard.lines

    for _ in range(9):
        site.clock.now += 2600
        assert site.browser.get("/console/").status_code == 200
    again = Listening(site)
    site.clock.now += 1700
    assert again.wait_for("event: end") and again.wait_for_end()
    heard.close()
    again.close()


def test_without_a_session_there_is_no_stream(site: Any) -> None:
    answer = site.browser.get("/console/live", headers={"accept": "text/event-stream"})

    assert answer.status_code == 401


def test_streams_are_bounded(site: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(live_updates, "MAX_OPEN_STREAMS", 0)
    site.sign_in("soc")

    assert site.browser.get("/console/live").status_code == 503


def test_no_person_takes_the_streams_of_others(new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_updates, "MAX_STREAMS_OF_PERSON", 1)
    site = new_site()
    site.sign_in("soc")
    heard = Listening(site)
    assert heard.wait_for("event: opened")
    assert site.browser.get("/console/live").status_code == 503

    site.provider.userinfo = {"sub": "u-2"}
    other = site.new_browser()
    site.sign_in("soc", browser=other, sub="u-2", name="Bob")
    with other.stream("GET", "/console/live") as answer:
        assert answer.status_code == 200
    other.close()
    heard.close()


def test_a_name_can_not_end_an_event() -> None:
    sentence = live_updates._announcement(LevelChange("d", "t", "a\n\nevent: end\rx\u2028y", 1, 4, 0.9, "", 0, 0), 0)
    event = encode_event("said", sentence).decode()

    assert event.endswith("\n\n") and event.count("\n\n") == 1
    assert all(line.startswith(("data: ", "event: said")) for line in event.strip("\n").splitlines())
