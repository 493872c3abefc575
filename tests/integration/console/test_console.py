"""The console in a real browser: every page, sign-in, work done by clicking, what is seen without loading again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .looking import NARROW, WIDE, Looker
from .site import Site

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Look = Callable[..., Looker]


def pages(site: Site) -> dict[str, str]:
    """Name and path of every page, those of single things included."""
    (decision, *_) = [one for one in site.service.pages("/v1/decisions") if one["level"] not in ("unknown", "low")]
    (letter, *_) = [one for one in site.service.pages("/v1/dead-letters") if one["size"] < 40]
    named: dict[str, Any] = {name: decision[name] for name in ("tenant", "issuer")} | {"id": decision["agent_id"]}
    return {
        "overview": "/console/",
        "agents": "/console/agents",
        "agent": f"/console/agent?{site.query(named)}",
        "decisions": "/console/decisions",
        "decision": f"/console/decisions/{decision['decision_id']}",
        "alerts": "/console/alerts",
        "approvals": "/console/approvals",
        "dead-letters": "/console/dead-letters",
        "dead-letter": f"/console/dead-letters/{letter['letter_id']}",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_page_opens_without_errors_or_barriers(site: Site, look: Look, width: int, scheme: str) -> None:
    """At both widths and in both schemes: nothing fails, nothing is asked of others, nothing scrolls sideways."""
    looker = look(width=width, scheme=scheme)
    found = []
    for name, path in pages(site).items():
        page = looker.open(path)
        assert page.locator("h1").count() == 1, name
        looker.save(name)
        found += [f"{name}: {what}" for what in (*looker.barriers(), *looker.overflow())]

    assert found == []
