"""`/docs`: every operation and schema for people, on a page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from typing import Any

import httpx2

from trustwatch.api.http.openapi_document import operations_of


def test_the_page_has_every_operation_and_schema(shared: Any) -> None:
    document = shared.client.get("/openapi.json").json()
    answer = shared.client.get("/docs")
    page = answer.text

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {one["operationId"] for one in operations_of(document)} <= {*ids}
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= {*ids}
    assert {link for link in re.findall(r'href="#([^"]+)"', page)} <= {*ids}
    for operation in operations_of(document):
        assert operation["description"] in unescape(page)
    assert "trust.score:read</code>: Read risk" in page


def test_it_loads_and_runs_nothing(shared: Any) -> None:
    answer = shared.client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert answer.headers["content-security-policy"].startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert re.findall(r"<(?:script|img|link|iframe)\b| style=| on\w+=|src=", answer.text) == []


def test_it_is_for_those_who_may_read_the_document(shared: Any) -> None:
    """From this machine, or with a token; a request that a proxy passed on is not from this machine."""
    with httpx2.Client(base_url=shared.url) as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/docs", headers={"x-forwarded-for": "198.51.100.7"}).status_code == 401
        assert client.get("/docs", headers={"x-forwarded-for": "198.51.100.7", **shared.auth()}).status_code == 200
