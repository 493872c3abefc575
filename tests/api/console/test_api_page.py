"""`/docs`: every operation and schema for people, on a page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import httpx2


def test_it_loads_and_runs_nothing(shared: Any) -> None:
    answer = shared.client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert answer.headers["content-security-policy"].startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert re.findall(r"<(?:script|img|link|iframe)\b| style=| on\w+=|src=", answer.text) == []


def test_it_is_for_those_who_may_read_the_document(shared: Any) -> None:
    with httpx2.Client(base_url=shared.url) as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/docs", headers={"x-forwarded-for": "198.51.100.7"}).status_code == 401
        assert client.get("/docs", headers={"x-forwarded-for": "198.51.100.7", **shared.auth()}).status_code == 200
