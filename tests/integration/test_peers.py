"""The real servers that Trustwatch works with do what its hooks, actuators, gateway checks and parsers rely on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ..support.endpoint import Endpoint
from ..support.oauth_peers import (
    claims_of,
    hydra_client,
)

if TYPE_CHECKING:
    from scripts.service_stack import Hydra

pytestmark = pytest.mark.integration


def test_hydra_obeys_its_hook(hydra: Hydra) -> None:
    """204 issues, 200 sets claims, 403 denies at once; one that fails is asked three times, then there is no token."""
    with Endpoint(lambda _: (204, {}, b"")) as hook:
        hydra.configure(token_hook=f"{hook.url}/hooks/hydra", hook_key=("X-Key", "k"), top_level_claims=("risk_level",))
        hydra.start()
        agent = hydra_client(hydra)
        assert "risk_level" not in claims_of(agent.token())
        ((method, path, headers, body),) = hook.seen
        assert (method, path, headers["x-key"]) == ("POST", "/hooks/hydra", "k")
        asked = json.loads(body)
        assert asked["request"]["client_id"] == agent.client_id
        assert asked["request"]["payload"] == {"grant_type": ["client_credentials"], "scope": ["tools:read"]}
        assert agent.proof()["client_assertion"][:20] not in body.decode()

        answer = {"session": {"access_token": {"risk_level": "low", "policy_version": "7"}, "id_token": {}}}
        hook.answer = lambda _: (200, {"content-type": "application/json"}, json.dumps(answer).encode())
        claims = claims_of(agent.token())
        assert claims["risk_level"] == "low"
        assert claims["ext"] == {"risk_level": "low", "policy_version": "7"}

        hook.answer = lambda _: (403, {}, b"")
        denied = agent.ask()
        assert (denied.status_code, denied.json()["error"]) == (403, "access_denied")

        hook.seen.clear()
        hook.answer = lambda _: (500, {}, b"")
        failed = agent.ask()
        assert (failed.status_code, failed.json()["error"]) == (500, "server_error")
        assert len(hook.seen) == 3
    hydra.configure()
    hydra.start()
    assert agent.ask().status_code == 200
