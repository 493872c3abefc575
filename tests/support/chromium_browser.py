"""The machine's own Chromium, for tests that look at pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A browser without a window; skips the test where there is none."""
    from playwright.sync_api import sync_playwright

    from scripts.service_stack import ServiceUnavailable
    from scripts.service_stack.chromium import chromium_program

    try:
        program = chromium_program()
    except ServiceUnavailable as reason:
        pytest.skip(f"BROWSER NOT TO BE HAD: {reason}")
    with sync_playwright() as playwright:
        # Root has no sandbox of its own; /dev/shm is too small in containers.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        made = playwright.chromium.launch(executable_path=program, args=arguments)
        yield made
        made.close()
