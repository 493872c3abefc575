"""`trustwatch init`: the first settings file of a deployment, by flags or by asking."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from trustwatch.ingest.durable_files import create_secret_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import check_url

from ..cli.terminal import JsonOption, fail, print_message, write_json
from ..settings.first_settings import (
    HOOK_KEY_FILE,
    AuthorizationServer,
    FirstAnswers,
    Form,
    first_settings,
    token_command,
)
from ..settings.loading import environment_with, load_settings
from ..settings.storage_settings import StoreSettings

_SECRETS = ("TRUSTWATCH_DB_PASSWORD", "TRUSTWATCH_KEYCLOAK_SECRET")
"""Variables that a written file may ask for; a check of the file does not need their values."""


class FirstOptions(NamedTuple):
    """The options of the command; None = not given."""

    form: Form | None
    server: AuthorizationServer | None
    issuer: str | None
    admin_url: str | None
    tenant: str | None
    brokers: str | None
    database: str | None
    local_key: bool
    gateway: str


def init(
    file: Annotated[Path, typer.Argument(help="settings file to write")] = Path("trustwatch.yaml"),
    form: Annotated[
        Form | None, typer.Option(help="embedded: one machine; distributed: brokers and PostgreSQL", show_default=False)
    ] = None,
    server: Annotated[
        AuthorizationServer | None,
        typer.Option(help="who issues the agents' tokens; none: a local key, to try it", show_default=False),
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="`iss` of its tokens", show_default=False)] = None,
    admin_url: Annotated[
        str | None,
        typer.Option(help="Hydra's admin API, or Keycloak's address: agents are lowered there", show_default=False),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="whose agents these are", show_default=False)] = None,
    brokers: Annotated[
        str | None, typer.Option(help="host:port of the brokers, separated by commas", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql:// URL without a password", show_default=False)
    ] = None,
    local_key: Annotated[
        bool, typer.Option("--local-key", help="callers sign in by a key of this machine, to try it with a server")
    ] = False,
    gateway: Annotated[
        str, typer.Option(help="client id of a gateway or MCP server that tells of calls, and asks before each")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    json: JsonOption = False,
) -> None:
    """Write a first settings file, with comments. At a terminal it asks for what no option says."""
    if file.exists() and not force:
        raise fail(ConfigError(f"{file} is there already: name another file, or replace it with --force"))
    questions = _Questions(at_terminal=_at_terminal() and not json)
    given = FirstOptions(form, server, issuer, admin_url, tenant, brokers, database, local_key, gateway)
    answers = _answers(questions, given)
    written = _write(file, answers)
    if json:
        write_json({"written": [str(path) for path in written], **answers._asdict()})
        return
    for path in written:
        print_message(f"wrote {path}")
    for step in _next_steps(file, answers):
        print_message(step)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


class _Questions:
    """Asks for what no option says.

    Args:
        at_terminal: whether a person can answer; else defaults are taken, and what has none is an error.
    """

    def __init__(self, *, at_terminal: bool) -> None:
        self._at_terminal = at_terminal

    def text(
        self,
        given: str | None,
        option: str,
        question: str,
        default: str | None = None,
        check: Callable[[str], None] = lambda _: None,
    ) -> str:
        """The text that was given, else the answer; a wrong answer is asked for again.

        *check* raises ValueError for what can not be right. Ends the command where there is no text, or a wrong one was
        given.
        """
        while given is None and self._at_terminal:
            answer = str(typer.prompt(question, default=default, err=True, show_default=bool(default)))
            try:
                check(answer)
            except ValueError as error:
                print_message(f"{error}; please answer again")
            else:
                return answer
        if (text := default if given is None else given) is None:
            raise fail(ConfigError(f"{question}: give {option}"))
        try:
            check(text)
        except ValueError as error:
            raise fail(ConfigError(f"{option}: {error}")) from None  # not what was given: it may hold a password
        return text

    def choice(self, given: Any, option: str, question: str, choices: tuple[str, ...]) -> Any:
        """One of *choices*, the first by default."""

        def check(answer: str) -> None:
            if answer not in choices:
                raise ValueError(f"{answer!r} is none of {', '.join(choices)}")

        return self.text(given, option, f"{question} ({', '.join(choices)})", choices[0], check)


def _check_issuer(text: str) -> None:
    check_url(text, "an issuer", loopback_http=True)


def _check_admin_url(text: str) -> None:
    if text:
        check_url(text, "the admin address", loopback_http=True)


def _check_tenant(text: str) -> None:
    if not text.strip():
        raise ValueError("a tenant has a name")


def _check_brokers(text: str) -> None:
    parts = _parts_of(text)
    for part in parts:
        host, _, port = part.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or set(part) & set(" /"):
            raise ValueError(f"{part!r} is not host:port")
    if not parts:
        raise ValueError("one broker at least: host:port")


def _check_database(text: str) -> None:
    StoreSettings(url=text)


def _refuse_unused(given: FirstOptions, form: Form, server: AuthorizationServer) -> None:
    """End the command for an option that says nothing about this form and server: it would be left out unseen."""
    unused = {
        "--brokers": (given.brokers, form == "distributed", "--form distributed"),
        "--database": (given.database, form == "distributed", "--form distributed"),
        "--issuer": (given.issuer, server != "none", "--server hydra, keycloak or other"),
        "--admin-url": (given.admin_url, server in ("hydra", "keycloak"), "--server hydra or keycloak"),
    }
    for option, (text, is_used, needed) in unused.items():
        if text is not None and not is_used:
            raise fail(ConfigError(f"{option} goes with {needed}; give both, or leave it out"))


def _answers(questions: _Questions, given: FirstOptions) -> FirstAnswers:
    """Everything that the file is made of, as given or as asked for."""
    form = questions.choice(given.form, "--form", "Form of the deployment", get_args(Form))
    server = questions.choice(given.server, "--server", "Who issues the agents' tokens", get_args(AuthorizationServer))
    _refuse_unused(given, form, server)
    answers = FirstAnswers(form, server, local_key=given.local_key, gateway=given.gateway)
    if server != "none":
        issuer = questions.text(given.issuer, "--issuer", "Issuer, the `iss` of its tokens", check=_check_issuer)
        answers = answers._replace(issuer=issuer)
    if server in ("hydra", "keycloak"):
        question = "Its admin address, empty for later"
        admin_url = questions.text(given.admin_url, "--admin-url", question, "", _check_admin_url)
        answers = answers._replace(admin_url=admin_url)
    tenant = questions.text(given.tenant, "--tenant", "Tenant of the agents", "acme-corp", _check_tenant)
    answers = answers._replace(tenant=tenant)
    if form == "distributed":
        question = "host:port of the brokers, separated by commas"
        brokers = questions.text(given.brokers, "--brokers", question, check=_check_brokers)
        question = "postgresql:// URL without a password"
        database = questions.text(given.database, "--database", question, check=_check_database)
        answers = answers._replace(brokers=_parts_of(brokers), database=database)
    return answers


def _parts_of(brokers: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in brokers.split(",") if part.strip())


def _write(file: Path, answers: FirstAnswers) -> list[Path]:
    """Write the file, and a secret that it names, once it is known to be right; returns what was written."""
    try:
        content = first_settings(answers).encode()
    except UnicodeEncodeError:  # of bytes on the command line that are no text
        raise fail(ConfigError("an answer is no UTF-8 text; nothing was written")) from None
    secret = file.absolute().parent / HOOK_KEY_FILE
    written = []
    file.parent.mkdir(parents=True, exist_ok=True)
    if answers.needs_hook_secret and not secret.exists():
        create_secret_file(secret, secrets.token_urlsafe(32).encode())
        written.append(secret)
    beside = file.with_name(f".{file.name}.new")
    try:
        write_file_atomically(beside, content, mode=0o600)  # no link that somebody laid there is followed
        load_settings(beside, {**environment_with(None), **dict.fromkeys(_SECRETS, "checked later")})
    except ConfigError as error:
        for path in written:
            path.unlink()
        raise fail(ConfigError(str(error).replace(str(beside), str(file)))) from None
    else:
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    return [file, *written]


def _next_steps(file: Path, answers: FirstAnswers) -> list[str]:
    """Next steps of a person, one line each."""
    steps = [f"export TRUSTWATCH_SETTINGS={shlex.quote(str(file.absolute()))}"]
    lines = [line for line in first_settings(answers).splitlines() if not line.startswith("#")]
    variables = [name for name in _SECRETS if name in "\n".join(lines)]
    steps += [f"export {name}=...    # its value is a secret" for name in variables]
    if answers.form == "distributed":
        steps.append("trustwatch topics create")
        steps.append("# a second machine: the same files, and share data_dir/models (or copy a trained model to each)")
    steps.append("trustwatch settings check")
    steps.append("trustwatch serve")
    if answers.has_local_key:
        console = "; trustwatch console-link signs you in" if answers.has_development_login else ""
        steps.append(f"{token_command(answers)}    # signs in programs{console}")
    return ["next:", *(f"  {step}" for step in steps)]
