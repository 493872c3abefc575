"""Trustwatch in this world: its settings, its policy, and what a person asks and orders over the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import issue_local_token

from .environment import Environment
from .roles import ROLES, TENANT

GATEWAY = """\
    format: envoy                     # a line of the access log: where a call came from, and what became of it
    mapping:
      when: '"mcp.method.name" == `tools/call`'
      members:                        # the tool server itself tells which tool it was
        type: "'api.call'"
        action: "'POST /mcp'"
        effect: "'unknown'"
        scopes.granted: ""            # Trustwatch itself narrows those
        bytes_in: ""
        bytes_out: ""
        duration_ms: ""
        client.user_agent: ""
"""

SETTINGS = """\
# Written by examples/agents.
settings_version: 2
data_dir: data
model_dir: model
listen: {{port: {port}}}
issuers:                              # Trustwatch's own callers
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: as, client_id: as, tenants: [{tenant}], issuers: ["{issuer}"], agents: ["*"]}}   # it asks about all
  - name: agents
    client_id: agents
    tenants: [{tenant}]
    issuers: ["{issuer}"]
    agents: ["*"]                     # they report each other by what their verified tokens say
    sources: ["urn:harbour:*"]
    trusted: true                     # their word on types counts: it comes from verified tokens
    enforces: true                    # they refuse what Trustwatch says, and mark such refusals
  - {{name: dana, client_id: dana, tenants: [{tenant}], issuers: ["{issuer}"]}}
  - name: gateway
    client_id: gateway
    tenants: [{tenant}]
    issuers: ["{issuer}"]
    agents: ["*"]
{gateway}tenants:
  {tenant}: {{domains: [harbour.example]}}
registry:                             # what the agents registered as
{registry}
hooks:                                # the authorization server asks at each issuance
  - {{name: authzen, kind: authzen, tenant: {tenant}, issuer: "{issuer}"}}
gateway:                              # Envoy asks at each call
  resource_metadata: "{metadata}"
  issuers:
    - {{issuer: "{issuer}", jwks_uri: "{issuer}/jwks", audiences: ["{tools}"], tenant_claim: organization_id}}
token_policy_file: policy.yaml
pipeline: {{commit_interval_s: 0.1, tick_interval_s: 1}}
risk:
  alert_budget: {{medium: 20, high: 2, critical: 0.1}}
"""

POLICY = """\
version: "harbour-1"
mode: enforce
descendants: medium                   # whom a critical agent delegated to is treated as at least at medium
levels:
  high: {max_token_lifetime_s: 60, step_up: false, step_up_scopes: ["*write*"]}
"""


def write_settings(folder: Path, place: Environment, port: int) -> Path:
    """Settings, policy and the callers' tokens in *folder*; returns the settings file."""
    registry = "\n".join(
        f'  - {{tenant: {TENANT}, issuer: "{place.issuer}", agent: "{one["client_id"]}", type: {ROLES[name].type}}}'
        for name, one in place.agents.items()
    )
    base, _, path = place.tools_url.rpartition("/")
    text = SETTINGS.format(
        port=port,
        tenant=TENANT,
        issuer=place.issuer,
        registry=registry,
        tools=place.tools_url,
        gateway=GATEWAY,
        metadata=f"{base}/.well-known/oauth-protected-resource/{path}",
    )
    (folder / "data").mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text(POLICY)
    for caller in ("as", "agents", "dana", "gateway"):
        write_token(folder, caller)
    settings = folder / "settings.yaml"
    settings.write_text(text)
    return settings


def write_token(folder: Path, caller: str) -> Path:
    """A token of the local development key, in a file that its owner alone can read."""
    path = folder / f"{caller}.token"
    path.touch(mode=0o600)
    path.write_text(issue_local_token(folder / "data", caller, list(ALL_SCOPES), "trustwatch", 86_400))
    return path


class TrustwatchOperator:
    """What Dana sees and does at Trustwatch's API."""

    def __init__(self, place: Environment, token: str) -> None:
        self._place = place
        self._http = httpx2.Client(
            base_url=place.trust_url, headers={"authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the service answers."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def risk(self, agent: str) -> dict[str, Any]:
        """The risk answer of an agent, by name."""
        return self._get(f"{self._path(agent)}/risk")

    def decisions(self) -> list[dict[str, Any]]:
        """Changes of level, newest first."""
        return list(self._get("/v1/decisions", limit=200)["items"])

    def blast_radius(self, agent: str) -> list[dict[str, Any]]:
        """Whom an agent delegated to or called."""
        return list(self._get(f"{self._path(agent)}/blast-radius")["agents"])

    def approvals(self, agent: str) -> list[dict[str, Any]]:
        """What persons were asked about an agent, newest first."""
        mine = self._place.agents[agent]["client_id"]
        return [one for one in self._get("/v1/approvals", limit=100)["items"] if one["agent_id"] == mine]

    def decide(self, approval: dict[str, Any], verdict: str, why: str) -> dict[str, Any]:
        """`approve` or `reject`."""
        return self._post(f"/v1/approvals/{approval['intervention_id']}/{verdict}", why=why)

    def release(self, agent: str, note: str) -> None:
        """Vouch for an agent: the evidence so far is dropped."""
        self._post(f"{self._path(agent)}/release", note=note)

    def _path(self, agent: str) -> str:
        return f"/v1/agents/{quote(self._place.agents[agent]['client_id'], safe='')}"

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return dict(self._checked(self._http.get(path, params=params)).json())

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return dict(self._checked(self._http.post(path, json=body)).json())

    @staticmethod
    def _checked(answer: httpx2.Response) -> httpx2.Response:
        if not answer.is_success:
            raise RuntimeError(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text[:300]}")
        return answer
