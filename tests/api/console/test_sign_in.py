"""Signing in at an OpenID provider, and the ways in which it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from trustwatch.api.console.console_sessions import matching_grant
from trustwatch.api.http.refused_callers import LINES_PER_S
from trustwatch.ingest.settings import Secret

NOW = 1_764_000_000.0


def began(site: Any, back: str = "/console/") -> str:
    site.provider.claims = {"groups": ["soc"]}
    return str(site.browser.get("/console/sign-in/start", params={"next": back}).headers["location"])


def test_a_page_leads_to_the_sign_in_and_back(site: Any) -> None:
    first = site.browser.get("/console/agents?level=high")
    page = site.browser.get(first.headers["location"])
    done = site.sign_in("soc", back="/console/agents?level=high")

    assert first.status_code == 303
    assert first.headers["location"] == "/console/sign-in?next=%2Fconsole%2Fagents%3Flevel%3Dhigh"
    assert "/console/sign-in/start?next=%2Fconsole%2Fagents%3Flevel%3Dhigh" in page.text
    assert (done.status_code, done.headers["location"]) == (303, "/console/agents?level=high")
    assert site.browser.get("/console/agents").status_code == 200


def test_the_request_is_bound_to_this_browser_and_code(site: Any) -> None:
    """State, nonce and an S256 challenge go out; the code comes in with the verifier and the client's own secret."""
    asked = parse_qs(urlsplit(began(site)).query)
    site.sign_in("soc")
    (form,) = site.provider.asked

    assert asked["code_challenge_method"] == ["S256"] and asked["response_type"] == ["code"]
    assert min(len(asked[name][0]) for name in ("state", "nonce", "code_challenge")) >= 43
    assert asked["redirect_uri"] == [f"{site.url}/console/callback"]
    assert asked["scope"] == ["openid profile"]
    assert len(form["code_verifier"]) >= 43
    assert form["authorization"].startswith("Basic ")


def test_cookies_are_kept_from_scripts_and_other_sites(site: Any) -> None:
    """HttpOnly, SameSite=Lax, no domain; the sign-in's cookie goes when it is used."""
    done = site.sign_in("soc")
    cookies = done.headers.get_list("set-cookie")

    assert len(cookies) == 2
    assert all("HttpOnly" in one and "SameSite=Lax" in one and "Path=/" in one for one in cookies)
    assert not any("Domain" in one for one in cookies)
    assert any("sign-in" in one and "Max-Age=0" in one for one in cookies)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"state": "another"}, "not started in this browser"),
        ({"state": ""}, "not started in this browser"),
        ({"iss": "https://other.example"}, "another sign-in server"),
        ({"iss": ""}, "another sign-in server"),
        ({"code": "", "error": "access_denied<script>"}, "refused (access_deniedscript)"),
        ({"code": "guessed"}, "refused the code"),
    ],
)
def test_a_wrong_answer_signs_nobody_in(site: Any, answer: dict[str, str], said: str) -> None:
    """An answer to another request, from another server, or without a code of the provider is refused."""
    refused = site.browser.get(site.provider.approve(began(site), **answer))

    assert refused.status_code == 403
    assert said in refused.text
    assert site.browser.get("/console/").status_code == 303


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "somebody-else"}, "another audience"),
        ({"aud": ["trustwatch-console", "other"]}, "azp"),
        ({"azp": "other"}, "azp"),
        ({"iss": "https://other.example"}, "issuer of the token"),
        ({"exp": int(NOW) - 3600}, "expired"),
        ({"iat": int(NOW) + 3600}, "not valid yet"),
        ({"sub": None}, "lacks one of"),
    ],
)
def test_a_wrong_id_token_signs_nobody_in(site: Any, claims: dict[str, Any], said: str) -> None:
    """Every claim of the ID token that ties it to this request, client and time is checked."""
    done = site.sign_in("soc", **claims)

    assert done.status_code == 403
    assert said in done.text
    assert site.browser.get("/console/").status_code == 303


def test_a_sign_in_can_not_be_finished_in_another_browser(site: Any) -> None:
    link = site.provider.approve(began(site))
    other = site.new_browser()
    refused = other.get(link)
    other.close()

    assert refused.status_code == 403


def test_a_sign_in_takes_ten_minutes_at_most(site: Any) -> None:
    link = site.provider.approve(began(site))
    site.clock.now += 601

    assert site.browser.get(link).status_code == 403


def test_an_answer_counts_once(site: Any) -> None:
    link = site.provider.approve(began(site))

    assert site.browser.get(link).status_code == 303
    assert site.browser.get(link).status_code == 403


def test_who_has_no_grant_is_told_so(site: Any) -> None:
    done = site.sign_in("strangers")

    assert done.status_code == 403
    assert "you have no rights here" in done.text


def test_failed_sign_ins_fill_no_log(site: Any) -> None:
    site.clock.now += 10  # a second that no test before wrote in
    with capture_logs() as lines:
        for _ in range(LINES_PER_S + 3):
            assert site.sign_in("strangers").status_code == 403
        site.clock.now += 1
        assert "you have no rights here" in site.sign_in("strangers").text
    told = [line for line in lines if line["event"] == "console sign-in without a grant"]

    assert len(told) == LINES_PER_S + 1
    assert told[-1]["left_out"] == 3


def test_the_first_grant_that_fits_decides(site: Any) -> None:
    """Tenants and scopes of two grants are never mixed; dotted claims go into objects."""
    grants = site.settings.console.oidc.grants

    assert matching_grant({"groups": ["readers", "soc"]}, grants).name == "soc"
    assert matching_grant({"groups": "x readers"}, grants).name == "readers"
    assert matching_grant({"realm": {"roles": ["watch"]}}, grants).name == "deep"
    assert matching_grant({"realm.roles": "watch"}, grants).name == "deep"
    assert matching_grant({"groups": {"soc": True}, "realm": "roles"}, grants) is None


def test_claims_may_come_from_userinfo(site: Any) -> None:
    site.provider.userinfo = {"sub": "u-1", "groups": ["soc"]}
    good = site.sign_in(groups=None)
    site.provider.userinfo = {"sub": "u-2", "groups": ["soc"]}
    wrong = site.sign_in(groups=None)

    assert good.status_code == 303
    assert wrong.status_code == 403
    assert "another person" in wrong.text


def test_a_new_key_of_the_provider_is_fetched(new_site: Callable[..., Any]) -> None:
    site = new_site()
    site.sign_in("soc")
    site.provider.key_id = "k2"
    site.clock.now += 60

    assert site.sign_in("soc").status_code == 303


@pytest.mark.parametrize(
    "metadata", [{"issuer": "https://other.example"}, {"token_endpoint": "http://as.example/token"}, {"jwks_uri": 5}]
)
def test_a_provider_that_is_not_what_the_settings_say_signs_nobody_in(
    new_site: Callable[..., Any], metadata: dict[str, Any]
) -> None:
    """Its issuer is compared exactly, and its endpoints must be https."""
    site = new_site()
    site.provider.metadata = metadata
    refused = site.browser.get("/console/sign-in/start")

    assert refused.status_code == 503
    assert "metadata is invalid" in refused.text


def test_a_provider_that_is_away_is_said(new_site: Callable[..., Any], provider: Any) -> None:
    site = new_site(oidc=msgspec.structs.replace(provider.settings(), issuer="http://127.0.0.1:9"))
    refused, again = (site.browser.get("/console/sign-in/start") for _ in range(2))

    assert refused.status_code == again.status_code == 503
    assert "does not answer" in refused.text
    assert site.browser.get("/console/sign-in").status_code == 200


def test_a_key_instead_of_a_secret(new_site: Callable[..., Any], provider: Any) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    oidc = provider.settings(client_secret=None, client_key=Secret(pem.decode()), client_key_id="me")
    site = new_site(oidc=oidc)
    done = site.sign_in("soc")
    (form,) = provider.asked

    assert done.status_code == 303
    assert form["client_assertion_type"].endswith("jwt-bearer")
    assert form["client_assertion"].count(".") == 2
    assert form["authorization"] == ""


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example",
        "/console//evil",
        "/\\evil",
        "/v1/agents",
        "/console/\\evil",
        "/console/sign-in/start",
        "/console/\r\nx",
    ],
)
def test_nobody_is_sent_elsewhere(site: Any, back: str) -> None:
    assert site.sign_in("soc", back=back).headers["location"] == "/console/"
