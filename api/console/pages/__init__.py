"""The pages, one module each: a router with its routes.

To add one: write `pages/NAME_page.py` with `router` and `templates/NAME.html` (`{% extends "base.html" %}`), add the
module to `PAGE_MODULES`, and its entry to `MENU`.
"""

from __future__ import annotations

from typing import Final

from ...http.auth.callers import SCOPE_ADMIN, SCOPE_SCORE_READ
from ..rendering import MenuEntry
from . import (
    agent_page,
    alerts_page,
    approvals_page,
    case_page,
    decisions_page,
    models_page,
    overview_page,
)

PAGE_MODULES: Final = (
    overview_page,
    case_page,
    agent_page,
    decisions_page,
    alerts_page,
    approvals_page,
    models_page,
)
MENU: Final = (
    MenuEntry("Overview", "/console/", SCOPE_SCORE_READ, key="o"),
    MenuEntry("Cases", "/console/cases", SCOPE_SCORE_READ, "/console/cases/count", key="c"),
    MenuEntry("Agents", "/console/agents", SCOPE_SCORE_READ, key="a"),
    MenuEntry("Decisions", "/console/decisions", SCOPE_SCORE_READ, key="d"),
    MenuEntry("Alerts", "/console/alerts", SCOPE_ADMIN, key="l"),
    MenuEntry("Approvals", "/console/approvals", SCOPE_SCORE_READ, key="p"),
    MenuEntry("Feedback", "/console/feedback", SCOPE_SCORE_READ, key="f"),
    MenuEntry("Model", "/console/models", SCOPE_SCORE_READ, key="m"),
    MenuEntry("Trends", "/console/trends", SCOPE_SCORE_READ, key="t"),
    MenuEntry("Dead letters", "/console/dead-letters", SCOPE_ADMIN, key="x"),
    MenuEntry("Health", "/console/health", SCOPE_ADMIN, key="h"),
)
