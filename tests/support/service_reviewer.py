"""A service with checks for gateways, and what a person does with it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2

TENANT = "acme-corp"
SETTINGS = """\
gateway:
  risk_header: X-Risk-Level
  issuers:
    - issuer: "{issuer}"
      jwks_uri: "{keys}"
      audiences: ["{audience}"]
      tenant: acme-corp
"""


class ServiceReviewer:
    """The service, and what a person does with it."""

    def __init__(self, service: Any, issuer: str) -> None:
        self.service = service
        self.where = {"tenant": TENANT, "issuer": issuer}

    def agent(self, agent: str, what: str, **body: Any) -> httpx2.Response:
        path = f"/v1/agents/{quote(agent, safe='')}/{what}"
        answer = self.service.client.post(path, params=self.where, json=body, headers=self.service.auth())
        assert answer.is_success, answer.text
        return answer

    def pin(self, agent: str, level: str) -> None:
        self.agent(agent, "pin", level=level, why="for this test")

    def approve_all(self, agent: str) -> None:
        waiting = self.service.wait(
            lambda: [
                one
                for one in self.service.pages("/v1/interventions", kind="approval", status="pending")
                if one["agent_id"] == agent
            ]
        )
        for one in waiting:
            path = f"/v1/approvals/{one['intervention_id']}/approve"
            answer = self.service.client.post(path, json={"why": "known job"}, headers=self.service.auth())
            assert answer.is_success, answer.text


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
