"""The pages, one module each: a router with its routes, and its entry in the menu.

To add one: write `pages/NAME.py` with `ENTRY` (or None: not in the menu) and `router`, its templates in
`templates/NAME.html` (`{% extends "base.html" %}`), and add the module to `PAGE_MODULES`.
"""

from __future__ import annotations

from fastapi import APIRouter

from . import agent, agents, alerts, approvals, dead_letters, decisions, feedback, models, overview
from .entry import MenuEntry

PAGE_MODULES = (overview, agents, agent, decisions, alerts, approvals, feedback, models, dead_letters)
"""In the order of the menu."""


def menu_entries() -> tuple[MenuEntry, ...]:
    """Entries of the menu."""
    entries: list[MenuEntry | None] = [module.ENTRY for module in PAGE_MODULES]
    return tuple(entry for entry in entries if entry is not None)


def page_routers() -> tuple[APIRouter, ...]:
    """Routes of all pages."""
    return tuple(module.router for module in PAGE_MODULES)
