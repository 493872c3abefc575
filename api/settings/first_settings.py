"""The first settings file of a deployment, with comments, from a few answers."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

import msgspec

from .root import Settings

Form = Literal["embedded", "distributed"]
"""One machine with its own log and database, or Kafka and PostgreSQL."""

AuthorizationServer = Literal["none", "hydra", "keycloak", "other"]
"""Issuer of the agents' tokens; none: a key of this machine, to try it."""

LOCAL_ISSUER = "urn:trustwatch:local"
"""`iss` of tokens that the key of this machine signs (`api/http/auth/signing.py`)."""

HOOK_KEY_FILE = "hydra-hook.key"
"""Beside the settings file: what Hydra proves itself with at its token hook."""


_DEFAULTS = Settings()
_BROKERS = next(
    field.name for field in msgspec.structs.fields(Settings) if getattr(_DEFAULTS, field.name) is _DEFAULTS.brokers
)
"""Member that says where the brokers are, as it is declared."""


class FirstAnswers(NamedTuple):
    """Answers that a settings file is made of.

    Attributes:
        form: of the deployment.
        server: who issues the agents' tokens.
        issuer: `iss` of its tokens; "" where *server* is none.
        admin_url: of Hydra's admin API, or of Keycloak; "" leaves its actuator out, as a comment.
        tenant: whose agents these are.
        brokers: of Kafka, where *form* is distributed.
        database: URL of PostgreSQL without a password, likewise.
        local_key: callers of the API sign in by a key of this machine, whoever issues the agents' tokens.
        gateway: client that tells of calls and asks before each, a gateway or an MCP server; "" = none yet.
    """

    form: Form = "embedded"
    server: AuthorizationServer = "none"
    issuer: str = ""
    admin_url: str = ""
    tenant: str = "acme-corp"
    brokers: tuple[str, ...] = ()
    database: str = ""
    local_key: bool = False
    gateway: str = ""

    @property
    def has_local_key(self) -> bool:
        """True if a key of this machine signs the tokens of callers."""
        return self.local_key or self.server == "none"

    @property
    def local_client(self) -> str:
        """Caller for which the key of this machine signs: a trial has one that may do everything."""
        return "demo" if self.server == "none" and not self.gateway else "operator"

    @property
    def has_development_login(self) -> bool:
        """True if `trustwatch console-link` signs in at the console."""
        return self.has_local_key and self.form == "embedded"

    @property
    def agents_issuer(self) -> str:
        """`iss` of the agents' tokens."""
        return LOCAL_ISSUER if self.server == "none" else self.issuer

    @property
    def needs_hook_secret(self) -> bool:
        """True if the file names a file with the secret of Hydra's token hook."""
        return self.server == "hydra"


def token_command(answers: FirstAnswers) -> str:
    """Return the command that prints a token for the local caller of these settings."""
    return "trustwatch token" if answers.local_client == "demo" else "trustwatch token --client-id operator"


def first_settings(answers: FirstAnswers) -> str:
    """The settings file, YAML with comments. Every text of *answers* is quoted: none can be more than a text."""
    parts = [_HEAD, _place(answers), _issuers(answers), _callers(answers), _tenants(answers)]
    parts += [_hook(answers), _actuator(answers), _console(answers), _REST]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _quoted(text: str) -> str:
    """A text as YAML: JSON's strings are YAML's."""
    return json.dumps(text, ensure_ascii=False)


_HEAD = """
# Settings of Trustwatch. `trustwatch settings check FILE` says what is wrong, `trustwatch settings show` what holds.
# All members: `trustwatch settings schema`. Relative paths count from this file.
settings_version: 2
data_dir: var/data      # the service's own files, with the keys that it makes
model_dir: var/model    # the trained model
"""

_REST = """
# Alerts to people; without one they are on the console and in the API alone.
# webhooks:
#   - {name: soc, url: "https://hooks.example/...", levels: [high, critical]}

# A process that trains again each day and tells you where the newer model is better.
# lifecycle: {enabled: true}
"""


def _place(answers: FirstAnswers) -> str:
    if answers.form == "embedded":
        return "# One machine: the event log and the database (SQLite) are in data_dir."
    brokers = ", ".join(map(_quoted, answers.brokers))
    return f"""
# All processes share brokers and database: `trustwatch topics create` makes the topics.
{_BROKERS}:
  bootstrap_servers: [{brokers}]
store:
  url: {_quoted(answers.database)}
  password: {{env: TRUSTWATCH_DB_PASSWORD}}
identity:
  key_file: identity-key    # made by the first start; copy it to every machine, and into every back-up
"""


def _issuers(answers: FirstAnswers) -> str:
    head = "# Whose tokens this API accepts from callers."
    if answers.has_local_key:
        shared = "" if answers.form == "embedded" else "\n# Copy local-key.pem and local-jwks.json to every machine."
        return f"""
{head} A key of this machine, to try it: `{token_command(answers)}` signs with it.{shared}
issuers:
  - {{issuer: "{LOCAL_ISSUER}", jwks_file: var/data/local-jwks.json, audiences: [trustwatch]}}
"""
    keys = {
        "hydra": "/.well-known/jwks.json",
        "keycloak": "/protocol/openid-connect/certs",
        "other": "/.well-known/jwks.json",
    }[answers.server]
    checked = "   # check it: `jwks_uri` of the issuer's metadata" if answers.server == "other" else ""
    return f"""
{head}
issuers:
  - issuer: {_quoted(answers.issuer)}
    jwks_uri: {_quoted(answers.issuer.rstrip("/") + keys)}{checked}
    audiences: [trustwatch]    # `aud` of tokens for this API
"""


def _callers(answers: FirstAnswers) -> str:
    if answers.local_client == "demo":
        return """
# Which clients may ask and send, and for whom. This one may do everything: for a trial alone.
callers:
  - {name: demo, client_id: demo, tenants: ["*"], issuers: ["*"], agents: ["*"], sources: ["*"], trusted: true}
"""
    register = "" if answers.has_local_key else " Register each at your authorization server."
    lines = [f"# Which clients may ask and send, and for whom.{register}", "callers:", *_gateway_caller(answers)]
    if answers.server == "keycloak":
        lines += _keycloak_log_caller(answers)
    lines += [
        "  - name: reader              # asks for risk, sends nothing",
        "    client_id: trustwatch-reader",
        f"    tenants: [{_quoted(answers.tenant)}]",
    ]
    if answers.has_local_key:
        lines += [
            f"  - name: operator            # you: `{token_command(answers)}`",
            "    client_id: operator",
            *_spoken_for(answers),
        ]
    return "\n".join(lines)


def _spoken_for(answers: FirstAnswers) -> list[str]:
    return [
        f"    tenants: [{_quoted(answers.tenant)}]",
        f"    issuers: [{_quoted(answers.agents_issuer)}]       # of the agents that it speaks of",
        '    agents: ["*"]',
    ]


def _gateway_caller(answers: FirstAnswers) -> list[str]:
    named = _quoted(answers.gateway or "trustwatch-gateway")
    asks = "    enforces: true            # it asks before each call: its refusals are ours, no behaviour of the agent"
    return [
        "  - name: gateway             # sends audit events; its word on agents counts",
        f"    client_id: {named}",
        *_spoken_for(answers),
        '    sources: ["*"]',
        "    trusted: true",
        *([asks] if answers.gateway else ()),
    ]


def _keycloak_log_caller(answers: FirstAnswers) -> list[str]:
    realm = _realm(answers).replace("'", "\\'")
    what = f"realmName == '{realm}' && type && !starts_with(type, 'INTROSPECT') && clientId != 'trustwatch'"
    return [
        "  - name: keycloak-logs       # whoever sends Keycloak's log: see reference/sources.md",
        "    client_id: keycloak-logs",
        *_spoken_for(answers),
        "    format: keycloak",
        "    mapping:                  # no administrators, no questions of the API, not Trustwatch itself",
        f"      when: {_quoted(what)}",
    ]


def _tenants(answers: FirstAnswers) -> str:
    return f"""
# shadow decides, records and alerts, and acts on nothing. Change it to `enforce` when the alerts are right.
tenants:
  {_quoted(answers.tenant)}:
    mode: shadow
    domains: []               # your own domains: a resource elsewhere counts as outside
"""


def _hook(answers: FirstAnswers) -> str:
    if answers.server != "hydra":
        return ""
    return f"""
# Hydra asks before each token: oauth2.token_hook of its configuration names http(s)://THIS-SERVICE/hooks/hydra, with
# this secret in the header X-Trustwatch-Key. It can refuse a token there, and not shorten it: the actuator does.
hooks:
  - name: hydra
    kind: hydra
    tenant: {_quoted(answers.tenant)}
    issuer: {_quoted(answers.issuer)}
    secret: {{file: {HOOK_KEY_FILE}}}
    on_failure: closed        # a fault of ours: closed = no token, open = tokens go on
"""


def _actuator(answers: FirstAnswers) -> str:
    if answers.server not in ("hydra", "keycloak"):
        return ""
    about = (
        "# Lowers an agent's client at the server, as the policy of its level says: shorter tokens, none, all revoked."
    )
    lines = _hydra_actuator(answers) if answers.server == "hydra" else _keycloak_actuator(answers)
    if not answers.admin_url:
        lines = [f"# {line}" for line in lines]
        about += " Fill in its URL."
    return "\n".join([about, *lines])


def _hydra_actuator(answers: FirstAnswers) -> list[str]:
    return [
        "actuators:",
        "  - name: hydra",
        "    kind: hydra",
        f"    url: {_quoted(answers.admin_url or 'https://hydra-admin.internal')}    # for you alone",
        f"    issuers: [{_quoted(answers.issuer)}]",
        f"    tenants: [{_quoted(answers.tenant)}]",
        "    default_lifetime_s: 3600    # Hydra's ttl.access_token: say yours, or tokens may not be shortened",
        *_plain_http(answers.admin_url),
    ]


def _plain_http(url: str) -> list[str]:
    return ["    allow_http: true    # on this machine alone"] if url.startswith("http://") else []


def _realm(answers: FirstAnswers) -> str:
    """Realm of Keycloak: the last part of its issuer."""
    return answers.issuer.rstrip("/").rpartition("/")[2]


def _keycloak_actuator(answers: FirstAnswers) -> list[str]:
    return [
        "actuators:",
        "  - name: keycloak",
        "    kind: keycloak",
        f"    url: {_quoted(answers.admin_url or 'https://keycloak.example')}",
        f"    realm: {_quoted(_realm(answers))}",
        f"    issuers: [{_quoted(answers.issuer)}]",
        f"    tenants: [{_quoted(answers.tenant)}]",
        "    default_lifetime_s: 300    # the realm's Access Token Lifespan: say yours, or tokens may not be shortened",
        *_plain_http(answers.admin_url),
        "    auth:    # a service account with manage-clients, view-clients, view-users, manage-users",
        "      client_id: trustwatch",
        "      client_secret: {env: TRUSTWATCH_KEYCLOAK_SECRET}",
        f"      token_url: {_quoted(answers.issuer.rstrip('/') + '/protocol/openid-connect/token')}",
    ]


def _console(answers: FirstAnswers) -> str:
    if answers.has_development_login:
        return """
# Pages for people; `trustwatch console-link` prints a link that signs in, on this machine alone.
console: {enabled: true, development_login: true}
"""
    issuer = _quoted(answers.issuer or "https://login.example")
    return f"""
# Pages for people, who sign in at an OpenID provider.
# listen: {{public_url: "https://trust.example"}}
# console:
#   enabled: true
#   oidc:
#     issuer: {issuer}
#     client_id: trustwatch-console
#     client_secret: {{file: console-secret}}
#     grants:
#       - {{name: soc, claim: groups, value: soc, tenants: [{_quoted(answers.tenant)}],
#          scopes: ["trust.score:read", trust.feedback]}}
"""
