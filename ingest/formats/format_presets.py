"""Mappings of products' logs, as their manuals and real records show them: `presets/NAME.yaml`, read on first use.

A preset is what settings have under `mapping`, and `define` with expressions that others name by `$NAME`.

- Agents are what acts without a person: clients, roles, service accounts, applications, by a list of the machine actors
  that each log names. A person is at most the principal of a client. Records that name no agent are skipped, because a
  log has lines about strangers too.
- An action is the tool, or the method with the route: paths hold ids, and each would be a separate action. The path is
  the resource, without its query.
- Only an id that the product alone chooses identifies an event. A client may send its own `x-request-id`, and events
  that repeat it would be dropped as duplicates.
- Nothing of requests and answers passes, except the name of the object: logs hold policies, variables, and secrets.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec

from ..settings_reading import decode_yaml
from .record_mapping import MappingSpec

GATEWAY_FORMATS = ("envoy", "agentgateway", "kong", "apisix", "caddy", "contextforge")
AUDIT_LOG_FORMATS = (
    "aws-cloudtrail",
    "okta",
    "auth0",
    "gcp-audit",
    "google-workspace",
    "ocsf",
    "langsmith",
    "langfuse",
    "entra-signin",
    "entra-signin-table",
    "entra-audit",
    "github-audit",
    "kubernetes-audit",
)

_DEFINED = re.compile(r"\$([A-Z][A-Z0-9_]*)")
_FOLDER = Path(__file__).parent / "presets"


@cache
def read_preset(name: str) -> MappingSpec:
    """The mapping of a format of `GATEWAY_FORMATS` or `AUDIT_LOG_FORMATS`."""
    raw = decode_yaml((_FOLDER / f"{name}.yaml").read_bytes(), name)
    defined: dict[str, str] = {}

    def expand(text: str) -> str:
        return _DEFINED.sub(lambda match: defined[match[1]], text)

    for word, text in raw.pop("define", {}).items():
        defined[word] = expand(text)
    members = {member: expand(text) for member, text in raw["members"].items()}
    return msgspec.convert({**raw, "members": members, "when": expand(raw.get("when", ""))}, MappingSpec)
