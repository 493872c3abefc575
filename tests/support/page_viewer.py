"""A browser of one test: signed in or not, of some size and colour scheme, that keeps what went wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

    from .console_testbed import ConsoleTestbed

SCREENSHOTS = "TRUSTWATCH_SCREENSHOTS"
"""Environment variable: folder that screenshots are saved to; by default pytest's temporary one."""

WIDE, NARROW = 1440, 400
GRAVE = ("serious", "critical")


class PageViewer:
    """One browser context.

    Args:
        width: of the window, px.
        scheme: `light` or `dark`, as the system says.
        signed_in: whether it begins with a session of the development login.
        expected: statuses of answers above 399 that the test means to get.
        time_zone: of the machine that looks.
    """

    def __init__(
        self,
        browser: Browser,
        site: ConsoleTestbed,
        folder: Path,
        *,
        width: int = WIDE,
        scheme: str = "light",
        signed_in: bool = True,
        expected: Sequence[int] = (),
        cookies: Any = None,
        time_zone: str = "Etc/UTC",
    ) -> None:
        self.site = site
        self.width, self.scheme = width, scheme
        self.wrong: list[str] = []
        self._expected = frozenset(expected)
        self._folder = Path(os.environ.get(SCREENSHOTS) or folder)
        size: Any = {"width": width, "height": 900}
        self.context = browser.new_context(
            viewport=size, color_scheme=scheme, reduced_motion="reduce", timezone_id=time_zone
        )  # type: ignore[arg-type]
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self._listen(self.page)
        if signed_in:
            self.context.add_cookies(site.session_cookies(browser))

    def _listen(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"error in a script: {error}"))
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        elsewhere = not str(message.location.get("url", "")).startswith(self.site.url)  # the provider has no icon
        known = "Failed to load resource" in message.text and (elsewhere or self._expected)
        if message.type in ("error", "warning") and not known:
            self.wrong.append(f"console: {message.text} at {message.location}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc not in self.site.own_hosts:
            self.wrong.append(f"request to a third party: {request.url}")

    def _failed(self, request: Request) -> None:
        # A live stream ends when its page is left: that is no failure.
        if "/console/live" not in request.url and request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"request failed: {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        ours = response.url.startswith(self.site.url)
        if ours and response.status >= 400 and response.status not in self._expected:
            self.wrong.append(f"{response.status} of {response.url}")

    def open(self, path: str) -> Page:
        """The page at *path*, when it is there."""
        self.page.goto(f"{self.site.url}{path}", wait_until="load")
        return self.page

    def save(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}-{self.width}-{self.scheme}.png"
        self.page.screenshot(path=file, full_page=True)
        return file

    def save_window(self, file_name: str) -> Path:
        """A screenshot of what the window shows."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / file_name
        self.page.screenshot(path=file)
        return file

    def barriers(self) -> list[str]:
        """Grave barriers that axe-core finds in the page as it is."""
        found = Axe().run(self.page, options={"resultTypes": ["violations"]}).response["violations"]
        return [
            f"{one['impact']} {one['id']}: {one['help']}: {node['target']} {node['failureSummary']}"
            for one in found
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]

    def overflow(self) -> list[str]:
        """Elements that make the page itself scroll sideways; those in a box that scrolls by itself do not.

        Tables that become cards on a narrow page have to fit into it.
        """
        found: list[str] = self.page.evaluate(_OVERFLOW)
        return found

    def close(self) -> None:
        """End it; raises AssertionError for whatever went wrong in it."""
        self.context.close()
        assert not self.wrong, self.wrong


_OVERFLOW = """() => {
  const root = document.documentElement;
  const cut = [...document.querySelectorAll('.scroll')]
    .filter((box) => innerWidth < 640 && box.querySelector('table.cards') && box.scrollWidth > box.clientWidth + 1)
    .map((box) => `cards wider than the page: ${box.getAttribute('aria-label')}`);
  if (root.scrollWidth <= root.clientWidth) return cut;
  const scrolls = (node) => node && node !== document.body
    && (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  return [...cut, ...[...document.body.querySelectorAll('*')]
    .filter((node) => node.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(node.parentElement))
    .map((node) => node.outerHTML.slice(0, 120))];
}"""
