from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
import pytest

from trustwatch.api.settings.access_settings import IssuerSettings
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Secret

FULL = """
data_dir: state
listen: {host: 0.0.0.0, port: 9000}
issuers:
  - {issuer: "https://as.example", jwks_uri: "https://as.example/jwks", audiences: ["https://trust.example"]}
  - {issuer: "urn:trustwatch:local", jwks_file: state/local-jwks.json, audiences: [trustwatch]}
callers:
  - {name: gateway, client_id: gw, authenticated_by: "https://as.example", tenants: [acme-corp],
     issuers: ["https://as.example"], sources: ["urn:gateway:*"], trusted: true, events_per_s: 500}
tenants:
  acme-corp: {domains: [acme.example], mode: enforce}
registry:
  - {tenant: acme-corp, issuer: "https://as.example", agent: "agent-payment-*", type: PaymentProcessor}
webhooks:
  - {name: soc, url: "https://soc.example/hook", secret: {env: SOC_SECRET}, levels: [high, critical]}
"""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ISSUER = 'issuer: "https://as.example", audiences: [a], '


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ)


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, **environ)
    return str(refused.value)


def test_a_whole_file_becomes_typed_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL, SOC_SECRET=SECRET)

    assert settings.data_dir == tmp_path / "state"
    assert settings.model_dir == tmp_path / "var" / "model"
    assert settings.issuers[1].jwks_file == tmp_path / "state" / "local-jwks.json"
    assert settings.callers[0].trusted is True
    assert settings.webhooks[0].secret.reveal() == SECRET
    assert settings.domains() == {"acme-corp": ("acme.example",)}
    assert settings.registry[0].capabilities is None


def test_without_a_file_nobody_is_trusted() -> None:
    settings = load_settings(None, {})

    assert settings.listen.host == "127.0.0.1"
    assert (settings.issuers, settings.callers, settings.webhooks) == ((), (), ())
    assert settings.tenant("anyone").mode == "shadow"
    assert settings.data_dir == Path.cwd() / "var"


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "listen: {host: 0.0.0.0, port: 9000}",
        TRUSTWATCH_LISTEN_PORT="8000",
        TRUSTWATCH_DATA_DIR="/srv/trust",
        TRUSTWATCH_PORT="tcp://10.0.0.1:8420",
    )

    assert (settings.listen.host, settings.listen.port) == ("0.0.0.0", 8000)
    assert settings.data_dir == Path("/srv/trust")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("listen: {port: 70000}", ["`int` <= 65535", "`$.listen.port`", "TCP port"]),
        ("listen: {port: '8420'}", ["Expected `int`, got `str`", "`$.listen.port`"]),
        ("lisen: {}", ["unknown field `lisen`", "`listen`"]),
        ("pipeline: {batch: 3}", ["unknown field `batch`", "`$.pipeline`", "`resident_agents`"]),
        ("tenants: {acme: {mode: on-fire}}", ["`$.tenants[...].mode`", "shadow, enforce"]),
        ("risk: {disabled_signals: [typo]}", ["no such hard signal: typo", "deep_delegation", "`$.risk`"]),
        ("- 1", ["must be a mapping", "`$`"]),
        ("listen: [", ["is not YAML", "line 2, column 1"]),
        ("listen: {port: 1}\nmode: a\nlisten: {}", ["a name stands twice", "lines 1 and 3", "the first would be lost"]),
        ("tenants:\n  acme: {mode: enforce}\n  acme: {}", ["a name stands twice", "lines 2 and 3"]),
        ("callers: [{name: a, name: b}]", ["a name stands twice", "lines 1 and 1"]),
        (
            f"issuers: [{{{ISSUER} algorithms: [none], jwks_uri: 'https://a.b/j'}}]",
            ["was removed", "all asymmetric signature algorithms are accepted"],
        ),
        (f"issuers: [{{{ISSUER}}}]", ["either `jwks_uri` or `jwks_file`", "`$.issuers[0]`"]),
        (f"issuers: [{{{ISSUER} jwks_uri: 'http://as.example/j'}}]", ["must be an https URL", "only to loopback"]),
        (f"issuers: [{{{ISSUER} jwks_uri: 'http://127.0.0.1.evil.example/j'}}]", ["must be an https URL"]),
        (f"issuers: [{{{ISSUER} jwks_uri: 'https://u:p@as.example/j'}}]", ["user or password"]),
        (
            "issuers: [{issuer: i, jwks_uri: 'https://a.b/j'}]",
            ["missing required field `audiences`", "mean this service"],
        ),
        ("issuers: [{issuer: i, audiences: [], jwks_uri: 'https://a.b/j'}]", ["length >= 1", "audiences"]),
        ("callers: [{name: x}]", ["`client_id`, a `subject` or a `certificate`", "`$.callers[0]`"]),
        (
            "callers: [{name: x, client_id: c, authenticated_by: nobody}]",
            ["no such issuer", "`$.callers[0].authenticated_by`"],
        ),
        ("callers: [{name: x, client_id: c}, {name: x, client_id: d}]", ["`$.callers[1].name`"]),
        ("callers: [{name: x, client_id: c}, {name: y, client_id: c}]", ["same client", "`$.callers[1]`"]),
        ("webhooks: [{name: w, url: 'http://soc.example', secret: s}]", ["https URL"]),
        ("webhooks: [{name: w, url: 'https://soc.example'}]", ["missing required field `secret`"]),
        ("webhooks: [{name: w, url: 'https://s.example', secret: {env: NOT_SET}}]", ["NOT_SET is not set", ".secret`"]),
        ("webhooks: [{name: w, url: 'https://s.example', secret: {file: nope}}]", ["nope cannot be read", ".secret`"]),
        ("webhooks: [{name: w, url: 'https://s.example', secret: ''}]", ["{env: NAME}", ".secret`"]),
        (
            "risk: {alert_budget: {critical: 30}}",
            ["`alert_budget`", "critical <= high <= medium", "`$.risk`"],
        ),
        ("token_policy: {high: {allow: false}}", ["was removed", "`token_policy_file`"]),
    ],
)
def test_an_error_names_the_file_the_member_and_what_it_may_be(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refusal(tmp_path, text)

    assert message.startswith(str(tmp_path / "trustwatch.yaml"))
    assert [part for part in parts if part not in message] == [], message


def test_with_several_issuers_a_caller_says_whose_client_it_is(tmp_path: Path) -> None:
    message = refusal(tmp_path, FULL.replace('authenticated_by: "https://as.example", ', ""), SOC_SECRET=SECRET)

    assert "several issuers" in message
    assert "`$.callers[0].authenticated_by`" in message


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "absent.yaml", {})


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "hook.secret").write_text(SECRET + "\n", encoding="utf-8")
    settings = load(tmp_path, "webhooks: [{name: w, url: 'https://s.example', secret: {file: hook.secret}}]")

    assert settings.webhooks[0].secret == Secret(SECRET)


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL, SOC_SECRET=SECRET)
    secret = settings.webhooks[0].secret

    assert SECRET not in repr(settings) + str(settings) + f"{secret} {secret!r}"
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.webhooks)
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


@pytest.mark.parametrize(
    "text",
    [
        f"webhooks: [{{name: w, url: 'https://s.example', secret: {{value: {SECRET}}}}}]",
        f"webhooks: [{{name: w, url: 'https://s.example', secret: [{SECRET}]}}]",
        f"webhooks: [{{name: w, url: 'https://s.example', secret: {SECRET}, a: b: c}}]",
        f"webhooks:\n  - name: w\n   secret: {SECRET}\n",
    ],
)
def test_no_error_message_holds_a_secret(tmp_path: Path, text: str) -> None:
    assert SECRET not in refusal(tmp_path, text)


def test_loopback_may_be_plain_http() -> None:
    for host in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        assert IssuerSettings(issuer="i", audiences=("a",), jwks_uri=f"http://{host}/jwks").jwks_uri


def test_no_caller_has_the_name_of_what_the_pipeline_refuses(tmp_path: Path) -> None:
    text = FULL.replace("name: gateway, client_id: gw", "name: pipeline, client_id: gw")
    with pytest.raises(ConfigError, match=r"choose another name - at `\$\.callers\[0\]\.name`"):
        load(tmp_path, text, SOC_SECRET=SECRET)
