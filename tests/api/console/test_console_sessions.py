"""Sessions: their end, their person, and their key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.console.console_sessions import (
    ConsoleSessions,
    issue_login_code,
    new_session,
    redeem_login_code,
    session_caller,
    session_key,
)
from trustwatch.api.console.slice import CONTENT_SECURITY_POLICY
from trustwatch.api.settings.service_settings import ConsoleSettings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret

KEY = "k" * 32


def test_a_session_ends_when_it_is_idle(site: Any) -> None:
    site.sign_in("soc")
    site.clock.now += 3000
    kept = site.browser.get("/console/")
    site.clock.now += 3000
    again = site.browser.get("/console/")
    site.clock.now += 3700

    assert (kept.status_code, again.status_code) == (200, 200)
    assert site.browser.get("/console/").status_code == 303


def test_what_pages_ask_by_themselves_keeps_no_session_alive(site: Any) -> None:
    site.sign_in("soc")
    site.clock.now += 3000
    quiet = site.browser.get("/console/overview", headers={"X-Console-Live": "1", "HX-Request": "true"})
    site.clock.now += 700

    assert quiet.status_code == 200
    assert "set-cookie" not in quiet.headers
    assert site.browser.get("/console/").status_code == 303


def test_a_session_ends_after_its_longest_time(site: Any) -> None:
    site.sign_in("soc")
    for _ in range(10):
        site.clock.now += 2800
        last = site.browser.get("/console/")
    assert last.status_code == 200
    site.clock.now += 1000

    assert site.browser.get("/console/").status_code == 303


def test_each_sign_in_is_a_session_of_its_own(site: Any) -> None:
    site.sign_in("soc")
    first = site.form_token()
    site.sign_in("soc")

    assert site.form_token() != first


def test_signing_out_ends_every_copy(site: Any) -> None:
    site.sign_in("soc")
    name, copy = next((one.name, one.value) for one in site.browser.cookies.jar if "sign-in" not in one.name)
    out = site.post("/console/sign-out")
    thief = site.new_browser()
    thief.cookies.set(name, copy)
    stolen = thief.get("/console/")
    thief.close()

    assert (out.status_code, out.headers["location"]) == (303, "/console/sign-in?said=out")
    assert site.browser.get("/console/").status_code == 303
    assert stolen.status_code == 303


@pytest.mark.parametrize("cookie", ["", "x", "gAAAA", "é", "A" * 5000])
def test_a_cookie_that_is_none_of_ours_is_nobody(site: Any, cookie: str) -> None:
    answer = site.browser.get(
        "/console/", headers={"cookie": f"trustwatch-{site.settings.listen.port}={cookie}".encode()}
    )

    assert answer.status_code == 303


def test_a_sealed_sign_in_is_no_session() -> None:
    box = ConsoleSessions(KEY.encode(), lambda: 1000.0)
    session = new_session({"sub": "u"}, "soc", "sub", 1000.0)

    assert box.open(box.seal(session)) == session
    assert box.open_sign_in(box.seal(session)) is None
    assert ConsoleSessions(b"z" * 32, lambda: 1000.0).open(box.seal(session)) is None


def test_replicas_with_one_key_know_each_others_sessions(new_site: Callable[..., Any]) -> None:
    first, second = (new_site(session_key=Secret(KEY)) for _ in range(2))
    first.sign_in("soc")
    value = next(one.value for one in first.browser.cookies.jar if "sign-in" not in one.name)
    second.browser.cookies.set(f"trustwatch-{second.settings.listen.port}", value)

    assert second.browser.get("/console/").status_code == 200


def test_a_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    made = session_key(ConsoleSettings(), tmp_path)
    file = tmp_path / "console-key"

    assert session_key(ConsoleSettings(), tmp_path) == made
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        session_key(ConsoleSettings(), tmp_path)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="at least 32"):
        session_key(ConsoleSettings(), tmp_path)


def test_a_grant_that_is_taken_away_ends_its_sessions(site: Any) -> None:
    console = site.settings.console
    session = new_session({"sub": "u"}, "soc", "sub", 1.0)
    without = msgspec.structs.replace(
        console, oidc=msgspec.structs.replace(console.oidc, grants=console.oidc.grants[:1])
    )

    assert session_caller(session, console).tenants == {"acme"}
    assert session_caller(session, without) is None
    assert session_caller(session, ConsoleSettings()) is None


def test_a_person_is_no_client(site: Any) -> None:
    caller = session_caller(new_session({"sub": "gateway"}, "soc", "sub", 1.0), site.settings.console)

    assert caller.name == "console:gateway"


def test_a_link_signs_in_once(new_site: Callable[..., Any]) -> None:
    site = new_site(oidc=None, development_login=True)
    code = issue_login_code(site.settings.data_dir, site.clock.now)
    first = site.browser.get("/console/dev-login", params={"code": code})
    other = site.new_browser()
    second = other.get("/console/dev-login", params={"code": code})
    other.close()

    assert (first.status_code, first.headers["location"]) == (303, "/console/")
    assert site.browser.get("/console/").status_code == 200
    assert site.browser.get("/console/dev-login", params={"code": code}).status_code == 303  # is signed in already
    assert second.status_code == 403
    assert "console-link" in second.text


def test_links_are_not_on_disk_and_expire(tmp_path: Path) -> None:
    code = issue_login_code(tmp_path, 1000.0)
    (file,) = (tmp_path / "console-links").iterdir()

    assert code not in file.name and code not in file.read_text()
    assert not redeem_login_code(tmp_path, code, 1000.0 + 86_400)
    assert not redeem_login_code(tmp_path, "../../etc/passwd", 1000.0)
    assert issue_login_code(tmp_path, 1000.0 + 86_401)
    assert len(list((tmp_path / "console-links").iterdir())) == 1


def test_without_the_development_login_no_link_works(site: Any) -> None:
    code = issue_login_code(site.settings.data_dir, site.clock.now)

    assert site.browser.get("/console/dev-login", params={"code": code}).status_code == 403


def test_the_content_policy_allows_nothing_inline_or_foreign() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "https:" not in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
