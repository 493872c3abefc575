"""`trustwatch init`: every file that it writes is right, and says what it was told."""

from __future__ import annotations

import base64
import itertools
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.http.auth.signing import LOCAL_ISSUER
from trustwatch.api.service import init_command
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.scoring.delivery.actuators.hydra_actuator import HYDRA_DEFAULT_LIFETIME_S
from trustwatch.scoring.delivery.actuators.keycloak_actuator import KEYCLOAK_DEFAULT_LIFETIME_S

from ...support.format_samples import taken

RUN = CliRunner()
SECRETS = {"TRUSTWATCH_DB_PASSWORD": "p" * 16, "TRUSTWATCH_KEYCLOAK_SECRET": "k" * 16}
ISSUER = {
    "hydra": "https://hydra.example/",
    "keycloak": "https://kc.example/realms/agents",
    "other": "https://as.example",
}


def run(*arguments: str | Path) -> Any:
    return RUN.invoke(make_app(), ["init", *map(str, arguments)])


def written(folder: Path, *options: str) -> Settings:
    """The settings of a file that the command wrote."""
    file = folder / "made" / "trustwatch.yaml"
    done = run(file, *options)
    assert done.exit_code == 0, done.output
    assert "trustwatch settings check" in done.output
    return load_settings(file, SECRETS)


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither one in the place of the file nor one where it is written first: in a shared folder others lay them."""
    victim, file = tmp_path / "victim", tmp_path / "trustwatch.yaml"
    victim.write_text("precious")
    file.with_name(".trustwatch.yaml.new").symlink_to(victim)
    assert run(file, "--form", "embedded", "--server", "none", "--tenant", "acme").exit_code == 0
    assert victim.read_text() == "precious"
    assert not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run(file, "--form", "embedded", "--server", "none", "--tenant", "acme", "--force").exit_code == 0


def test_an_answer_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes of a command line may be anything."""
    done = run(tmp_path / "trustwatch.yaml", "--form", "embedded", "--server", "none", "--tenant", "a\udcff")
    assert done.exit_code == 1 and "an answer is no UTF-8 text" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "server", "admin"),
    list(itertools.product(("embedded", "distributed"), ("none", "hydra", "keycloak", "other"), (False, True))),
)
def test_every_file_is_right(tmp_path: Path, form: str, server: str, admin: bool) -> None:
    """Each form with each server: who is trusted, whose agents they are, and where they are lowered."""
    options = ["--form", form, "--server", server, "--tenant", "globex"]
    if server != "none":
        options += ["--issuer", ISSUER[server]]
    if admin and server in ("hydra", "keycloak"):
        options += ["--admin-url", "http://127.0.0.1:4445"]
    if form == "distributed":
        options += ["--brokers", "a:9092, b:9092", "--database", "postgresql://tw@db.example/tw"]
    settings = written(tmp_path, *options)

    assert [one.issuer for one in settings.issuers] == [ISSUER.get(server, "urn:trustwatch:local")]
    assert settings.tenants["globex"].mode == "shadow"
    assert settings.distributed == (form == "distributed")
    if form == "distributed":
        assert settings.kafka.bootstrap_servers == ("a:9092", "b:9092")
        assert settings.store.url == "postgresql://tw@db.example/tw"
    assert [hook.kind for hook in settings.hooks] == (["hydra"] if server == "hydra" else [])
    kinds = [actuator.kind for actuator in settings.actuators]
    assert kinds == ([server] if admin and server in ("hydra", "keycloak") else [])
    server_gives = {"hydra": HYDRA_DEFAULT_LIFETIME_S, "keycloak": KEYCLOAK_DEFAULT_LIFETIME_S}
    assert all(actuator.default_lifetime_s == server_gives[server] for actuator in settings.actuators)
    assert settings.console.enabled == (form == "embedded" and server == "none")
    assert settings.upgrade_warnings() == []


@pytest.mark.parametrize("server", ["none", "hydra", "keycloak", "other"])
@pytest.mark.parametrize("form", ["embedded", "distributed"])
def test_a_trial_with_a_server_has_a_key_of_its_own(tmp_path: Path, form: str, server: str) -> None:
    """Callers sign in by it, speak for agents of the server, and one of them is the gateway that asks before calls."""
    options = ["--form", form, "--server", server, "--local-key", "--gateway", "ledger"]
    if server != "none":
        options += ["--issuer", ISSUER[server]]
    if form == "distributed":
        options += ["--brokers", "a:9092", "--database", "postgresql://tw@db.example/tw"]
    settings = written(tmp_path, *options)

    agents_issuer = ISSUER.get(server, LOCAL_ISSUER)
    assert [one.issuer for one in settings.issuers] == [LOCAL_ISSUER]
    callers = {caller.name: caller for caller in settings.callers}
    logs = {"keycloak-logs"} if server == "keycloak" else set()
    assert callers.keys() == {"gateway", "reader", "operator"} | logs
    assert (callers["gateway"].client_id, callers["gateway"].enforces) == ("ledger", True)
    assert not callers["operator"].sources
    for name in callers.keys() - {"reader"}:
        assert (callers[name].tenants, callers[name].issuers) == (("acme-corp",), (agents_issuer,))
    assert [hook.issuer for hook in settings.hooks] == ([agents_issuer] if server == "hydra" else [])
    assert settings.console.development_login == (form == "embedded")


@pytest.mark.parametrize("server", ["none", "hydra", "other"])
@pytest.mark.parametrize("gateway", ["", "ledger"])
@pytest.mark.parametrize("form", ["embedded", "distributed"])
def test_the_printed_next_steps_let_the_reader_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, server: str, gateway: str
) -> None:
    """The token is one of a caller of the file, and a link to the console is named only if there is one."""
    options = ["--form", form, "--server", server, "--local-key", "--gateway", gateway]
    options += ["--issuer", ISSUER[server]] if server != "none" else []
    options += ["--brokers", "a:9092", "--database", "postgresql://tw@db.example/tw"] if form == "distributed" else []
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    done = run(file := tmp_path / "trustwatch.yaml", *options)
    (step,) = (line for line in done.output.splitlines() if line.startswith("  trustwatch token"))
    command, _, says = step.partition("#")

    issued = RUN.invoke(make_app(), [*command.split()[1:], "--settings", str(file)])
    claims = json.loads(base64.urlsafe_b64decode(issued.stdout.split(".")[1] + "=="))
    link = RUN.invoke(make_app(), ["console-link", "--settings", str(file)])

    assert claims["client_id"] in {caller.client_id for caller in load_settings(file, SECRETS).callers}
    assert "note:" not in issued.stderr
    assert ("console-link" in says) == (link.exit_code == 0) == (form == "embedded")
    assert command.strip() in file.read_text()


def test_a_token_for_no_caller_is_noted(tmp_path: Path) -> None:
    """A service with these settings would refuse it."""
    run(file := tmp_path / "trustwatch.yaml", "--server", "none")
    issued = RUN.invoke(make_app(), ["token", "--client-id", "operator", "--settings", str(file)])
    assert "no caller of these settings has the client id operator" in issued.stderr
    assert issued.stdout.count(".") == 2


def test_the_log_of_keycloak_is_that_of_agents(tmp_path: Path) -> None:
    """Of this realm, whatever it is called; without administrators, questions of APIs and what Trustwatch does."""
    settings = written(tmp_path, "--server", "keycloak", "--issuer", "https://kc.example/realms/o'neil")
    logs = next(caller for caller in settings.callers if caller.name == "keycloak-logs")
    login = {
        "realmName": "o'neil",
        "type": "CLIENT_LOGIN",
        "clientId": "clerk-7",
        "time": 1_764_000_000_000,
        "id": "e1",
    }
    others = [{"realmName": "other"}, {"type": None}, {"type": "INTROSPECT_TOKEN"}, {"clientId": "trustwatch"}]
    assert len(taken("keycloak", login, logs.mapping).events) == 1
    assert [taken("keycloak", login | other, logs.mapping).events for other in others] == [[]] * 4


def test_hydra_gets_a_secret_of_its_own(tmp_path: Path) -> None:
    """In a file for its owner alone, which stays where the settings are written again."""
    file, key = tmp_path / "trustwatch.yaml", tmp_path / "hydra-hook.key"
    options = ("--server", "hydra", "--issuer", ISSUER["hydra"])
    assert run(file, *options).exit_code == 0
    secret = key.read_text()
    assert len(secret) > 40 and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_settings(file, {}).hooks[0].secret.reveal() == secret
    refused = run(file, *options)
    assert refused.exit_code == 1 and "is there already" in refused.output
    assert run(file, *options, "--force").exit_code == 0 and key.read_text() == secret


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "hydra"), "give --issuer"),
        (("--form", "distributed"), "give --brokers"),
        (("--form", "distributed", "--brokers", "a:1"), "give --database"),
        (("--server", "hydra", "--issuer", "nonsense"), "--issuer: an issuer must be an https URL"),
        (("--server", "hydra", "--issuer", "https://h", "--admin-url", "ftp://h"), "--admin-url: the admin"),
        (("--form", "distributed", "--brokers", "k1 9092"), "--brokers: 'k1 9092' is not host:port"),
        (("--form", "distributed", "--brokers", ","), "one broker at least"),
        (("--form", "distributed", "--brokers", "a:1", "--database", "postgresql://u:hunter2@d/n"), "in `password`"),
        (("--server", "hydra", "--issuer", "https://u:hunter2@h"), "may not hold a user or password"),
        (("--tenant", ""), "a tenant has a name"),
        (("--brokers", "a:1"), "--brokers goes with --form distributed"),
        (("--issuer", "https://h"), "--issuer goes with --server"),
        (("--server", "other", "--issuer", "https://h", "--admin-url", "https://a"), "--admin-url goes with --server"),
        (("--server", "aws"), "'aws' is not one of"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_written(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """Before a file is in its place; a key that was made for it goes with it."""
    refused = run(tmp_path / "trustwatch.yaml", *options)
    assert refused.exit_code != 0 and said in refused.output
    assert "hunter2" not in refused.output
    assert list(tmp_path.iterdir()) == []


def test_answers_are_texts_and_nothing_more(tmp_path: Path) -> None:
    """A name can neither end its place nor begin another member."""
    name = 'a": {mode: enforce}\n  "b # {env: HOME} \U0001f600'
    settings = written(tmp_path, "--tenant", name, "--server", "hydra", "--issuer", "https://h.example/#\"'")
    assert {tenant: one.mode for tenant, one in settings.tenants.items()} == {name: "shadow"}
    assert settings.hooks[0].tenant == name and settings.issuers[0].issuer == "https://h.example/#\"'"


def test_a_person_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what no option says, until the answer is one of those there are."""
    monkeypatch.setattr(init_command, "_at_terminal", lambda: True)
    file = tmp_path / "trustwatch.yaml"
    done = RUN.invoke(
        make_app(), ["init", str(file), "--form", "embedded"], input="okta\nhydra\nhttps://h.example\n\n\n"
    )
    assert done.exit_code == 0 and "'okta' is none of none, hydra, keycloak, other" in done.output
    assert load_settings(file, {}).hooks[0].issuer == "https://h.example"


def test_a_wrong_answer_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own question, with the reason; what was answered before is kept."""
    monkeypatch.setattr(init_command, "_at_terminal", lambda: True)
    file = tmp_path / "trustwatch.yaml"
    answers = ["distributed", "hydra", "h.example", "https://h.example", "h:1", "https://hydra.internal", "acme"]
    answers += ["k1", "k1:9092, k2:9092", "mysql://u@d/n", "postgresql://u@d/n"]
    done = RUN.invoke(make_app(), ["init", str(file)], input="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert done.output.count("please answer again") == 4
    settings = load_settings(file, SECRETS)
    assert settings.kafka.bootstrap_servers == ("k1:9092", "k2:9092")
    assert (settings.hooks[0].issuer, settings.hooks[0].tenant) == ("https://h.example", "acme")


def test_a_secret_of_what_is_left_out_is_not_asked_for(tmp_path: Path) -> None:
    """Without an address of Keycloak its actuator is a comment."""
    options = ("--server", "keycloak", "--issuer", "https://k.example/realms/acme")
    without = run(tmp_path / "without.yaml", *options)
    given = run(tmp_path / "given.yaml", *options, "--admin-url", "https://k.example")
    assert "TRUSTWATCH_KEYCLOAK_SECRET" not in without.output
    assert "export TRUSTWATCH_KEYCLOAK_SECRET=" in given.output


def test_programs_read_json(tmp_path: Path) -> None:
    """What was written, and from which answers; nobody is asked."""
    file = tmp_path / "trustwatch.yaml"
    told = json.loads(run(file, "--json").stdout)
    assert told["written"] == [str(file)] and (told["form"], told["server"]) == ("embedded", "none")
