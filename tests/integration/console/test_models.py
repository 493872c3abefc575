"""A model is promoted and rolled back by clicking; the page that ordered it updates automatically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from ...support.console_testbed import ConsoleTestbed
from ...support.page_viewer import PageViewer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from scripts.service_stack import OidcProvider

    from ...support.service_process import ModelAndDay

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

KEEPER = "lifecycle: {enabled: true, every_h: 0, min_agent_days: 10}\n"
WHY = "seen in shadow for a day, CHG-9"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser, world: ModelAndDay, _oidc_provider: OidcProvider
) -> Iterator[ConsoleTestbed]:
    """A service that trains models of its own when it is told to."""
    made = ConsoleTestbed(tmp_path_factory.mktemp("models"), world, _oidc_provider, KEEPER)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_challenger_comes_into_force_and_goes_by_clicking(
    site: ConsoleTestbed, look: Callable[..., PageViewer]
) -> None:
    looker = look()
    page = looker.open("/console/models")
    order(page, "Train a new version now", "Train", "the first of our own")
    expect(page.get_by_role("status").filter(has_text="when its training is over")).to_have_count(1)
    version = site.service.wait(lambda: challenger(site), 200.0)

    page = looker.open(f"/console/models/{version}")
    form = page.locator("form.decide")
    form.get_by_label("Why").fill(WHY)
    if form.get_by_label("against its figures").count():  # what it is worth in shadow is not what is tried here
        form.get_by_label("against its figures").check()
    form.get_by_role("button", name="Make it active").click()
    page.wait_for_url("**/console/models?ordered=promotion**")
    told(page, version, "integration")
    assert "champion, active" in page.locator("tr", has_text=version).inner_text()
    assert f"promoted {version}" in page.locator("#happened").inner_text()
    assert WHY in page.locator("#happened").inner_text()
    assert looker.barriers() == []
    assert answered_by(site) == version

    order(page, "Go back to the version before", "Roll back", "too loud")
    page.wait_for_url("**/console/models?ordered=rollback**")
    told(page, "integration", version)
    assert "in force" not in page.locator("tr", has_text=version).inner_text()
    assert "too loud" in page.locator("#happened").inner_text()
    assert answered_by(site) == "integration"


def order(page: Page, what: str, button: str, why: str) -> None:
    """Open the form of an order, and send it with a reason."""
    page.get_by_text(what).click()
    form = page.locator("form.decide", has=page.get_by_role("button", name=button, exact=True))
    form.get_by_label("Why").fill(why)
    form.get_by_role("button", name=button, exact=True).click()


def told(page: Page, version: str, before: str) -> None:
    """The page that ordered it says that it is done, and was not loaded again for that."""
    page.evaluate("document.documentElement.dataset.untouched = 'yes'")
    page.locator("#ordered", has_text=f"Done: {version} is in force instead of {before}.").wait_for(timeout=60_000)
    assert page.locator("#in-force").inner_text().startswith(f"In force is {version}")
    assert page.evaluate("document.documentElement.dataset.untouched") == "yes"


def challenger(site: ConsoleTestbed) -> Any:
    """Version of the challenger, once there is one."""
    items = site.service.get("/v1/models").json()["items"]
    return next((one["version"] for one in items if one["status"] == "challenger"), None)


def answered_by(site: ConsoleTestbed) -> Any:
    asked = {"headers": site.service.auth(), "params": {"tenant": "acme-corp"}}
    return site.service.client.get("/v1/agents/nobody/risk", **asked).json()["model_version"]
