"""A client that a generator made of the OpenAPI document, used against the live service (`make generated-client`)."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..support.service_process import Service

pytestmark = pytest.mark.integration

VARIABLE = "TRUSTWATCH_GENERATED_CLIENT"
"""Names the folder in which the package `generated_client` lies."""


@pytest.fixture(scope="module")
def generated() -> Iterator[Callable[[str], Any]]:
    """Imports modules of the generated package by name."""
    folder = os.environ.get(VARIABLE)
    if not folder or not (Path(folder) / "generated_client").is_dir():
        pytest.skip(f"NO CLIENT GENERATED: {VARIABLE} names none; `make generated-client` makes one")
    sys.path.insert(0, folder)
    yield lambda name: importlib.import_module(f"generated_client.{name}")
    sys.path.remove(folder)


@pytest.fixture
def clients(running: Service, generated: Callable[[str], Any]) -> Iterator[Callable[..., Any]]:
    """Makes clients with a token of some scopes, default all."""
    kind = generated("client").AuthenticatedClient
    with ExitStack() as opened:
        yield lambda *scopes: opened.enter_context(
            kind(base_url=running.url, token=running.token("all", *scopes), timeout=30.0)
        )


def test_an_agent_by_the_generated_client_alone(
    running: Service, generated: Callable[[str], Any], clients: Callable[..., Any], make_event: Any
) -> None:
    """Risk, lists, a pin, a call's verdict and a decision: typed answers, and problems as they are declared."""
    assert running.send([make_event("generated", number) for number in range(5)]).status_code == 202
    running.settle()
    models, client = generated("models"), clients()

    risk = generated("api.agents.get_risk").sync("generated", client=client, tenant="acme-corp")
    assert isinstance(risk, models.RiskOut)
    assert (risk.agent_id, risk.tenant, risk.stale) == ("generated", "acme-corp", False)
    page = generated("api.agents.list_agents").sync(client=client, limit=500)
    assert "generated" in {agent.agent_id for agent in page.items}
    asked = models.RiskQueryIn(agents=[models.RiskQuestionIn(agent_id="generated", tenant="acme-corp")])
    (answer,) = generated("api.agents.query_risk").sync(client=client, body=asked).answers
    assert answer.agent_id == "generated"

    pin = models.PinIn(level=models.PinInLevel("high"), why="a test of the client")
    pinned = generated("api.containment.pin_agent").sync("generated", client=client, body=pin, tenant="acme-corp")
    assert (pinned.kind.value, pinned.level.value) == ("pin", "high")
    body = models.CallQuestion(action="read_file")
    verdict = generated("api.containment.evaluate_call").sync("generated", client=client, body=body, tenant="acme-corp")
    assert (verdict.agent_id, verdict.risk_level.value) == ("generated", "high")
