"""One real service with everything a page can show, and one Chromium; both live as long as the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ...support.chromium_browser import open_chromium
from ...support.console_testbed import ConsoleTestbed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from scripts.service_stack import OidcProvider

    from ...support.page_viewer import PageViewer
    from ...support.service_process import ModelAndDay


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, without a window."""
    with open_chromium() as made:
        yield made


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser, world: ModelAndDay, _oidc_provider: OidcProvider
) -> Iterator[ConsoleTestbed]:
    """The service after a day with attacks."""
    made = ConsoleTestbed(tmp_path_factory.mktemp("console"), world, _oidc_provider)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def look(site: ConsoleTestbed, browser: Browser, tmp_path: Path) -> Iterator[Callable[..., PageViewer]]:
    """Opens browser contexts of this test alone; whatever went wrong in one of them fails the test at its end."""
    from ...support.page_viewer import PageViewer

    made: list[PageViewer] = []

    def open_one(**how: Any) -> PageViewer:
        made.append(PageViewer(browser, site, tmp_path, **how))
        return made[-1]

    yield open_one
    for looker in made:
        looker.close()
