"""The pages, one module each: a router with its routes, and its entry in the menu.

To add one: write `pages/NAME.py` with `MENU_ENTRY` (or None: not in the menu) and `router`, its templates in
`templates/NAME.html` (`{% extends "base.html" %}`), and add the module to `PAGE_MODULES`.
"""

from __future__ import annotations

from fastapi import APIRouter

from ..rendering import MenuEntry
from . import (
    agent_list_page,
    agent_page,
    alerts_page,
    approvals_page,
    case_page,
    dead_letters_page,
    decisions_page,
    feedback_page,
    health_page,
    models_page,
    overview_page,
    search_page,
    trends_page,
)

PAGE_MODULES = (
    overview_page,
    case_page,
    agent_list_page,
    agent_page,
    decisions_page,
    alerts_page,
    approvals_page,
    feedback_page,
    models_page,
    trends_page,
    dead_letters_page,
    search_page,
    health_page,
)
"""Modules of the pages, in the order of the menu."""


def menu_entries() -> tuple[MenuEntry, ...]:
    """Entries of the menu."""
    entries: list[MenuEntry | None] = [module.MENU_ENTRY for module in PAGE_MODULES]
    return tuple(entry for entry in entries if entry is not None)


def page_routers() -> tuple[APIRouter, ...]:
    """Routes of all pages."""
    return tuple(module.router for module in PAGE_MODULES)
