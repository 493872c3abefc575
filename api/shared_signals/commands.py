"""`trustwatch signals`: our streams at transmitters, without a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.delivery.actuators.actuator_factory import ActuatorFactory
from trustwatch.scoring.delivery.actuators.authenticators import AssertionSigner
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import InvalidSubject, check_subject

from .. import clock
from ..cli.terminal import JsonOption, SettingsFileOption, print_message, write_json
from ..composition import new_id, service_url
from ..http.auth.signing import assertion_signer
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from .remote_stream import RemoteStream
from .transmitter_context import key_folder
from .verification_states import VerificationStates

T = TypeVar("T")

signals_app = typer.Typer(
    name="signals",
    no_args_is_help=True,
    help="Our streams at transmitters of shared signals: make, change, pause and verify one, or remove it.",
)

SUBJECT_EXAMPLE: Final = '{"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}'


class StatusName(StrEnum):
    """Statuses of SSF 1.0."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"


SubjectArgument = Annotated[str, typer.Argument(help=f"subject identifier (RFC 9493) in JSON: {SUBJECT_EXAMPLE}")]
NameArgument = Annotated[str, typer.Argument(help="transmitter of `shared_signals.transmitters` that has a `stream`")]


@signals_app.command()
def keep(
    name: NameArgument,
    replace: Annotated[bool, typer.Option("--replace", help="have all of it replaced, whatever it is there")] = False,
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Make our stream there, or change it to what the settings say, as `serve` does at start; tell its id."""
    kept = _ask(load_process_settings(settings), name, lambda stream: stream.keep(replace=replace))
    if json:
        write_json({"stream_id": kept.stream_id, "poll_url": kept.poll_url or None, "changed": kept.changed})
        return
    print_message(f"stream {kept.stream_id}: " + (f"polled at {kept.poll_url}" if kept.poll_url else "pushed"))


@signals_app.command()
def delete(name: NameArgument, settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Remove our stream there; take it out of the settings, too, or `serve` makes it again at its next start."""
    removed = _ask(load_process_settings(settings), name, RemoteStream.delete)
    _print_done({"removed": removed}, json, "removed" if removed else "there is no stream of ours")


@signals_app.command()
def status(
    name: NameArgument,
    wanted: Annotated[
        StatusName | None, typer.Option("--set", help="have it so; paused keeps what waits, disabled does not")
    ] = None,
    reason: Annotated[str, typer.Option(help="why, for the transmitter")] = "",
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Tell the status of our stream there, or set it."""
    if reason and wanted is None:
        raise typer.BadParameter("a reason goes with --set", param_hint="--reason")
    ask = RemoteStream.status if wanted is None else lambda stream: stream.set_status(wanted.value, reason)
    answer = _ask(load_process_settings(settings), name, ask)
    if json:
        write_json({"stream_id": answer.stream_id, "status": answer.status, "reason": answer.reason})
        return
    print_message(f"{answer.status}" + (f": {printable_line(answer.reason, 200)}" if answer.reason else ""))


@signals_app.command()
def verify(name: NameArgument, settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Have a verification sent by our stream; the log of the running service tells `signal_stream_verified`."""
    _ask(load_process_settings(settings), name, RemoteStream.verify)
    told = "asked: the log of the service has signal_stream_verified once it comes, or set_refused"
    _print_done({"asked": True}, json, told)


@signals_app.command("add-subject")
def add_subject(
    name: NameArgument, subject: SubjectArgument, settings: SettingsFileOption = None, json: JsonOption = False
) -> None:
    """Have a subject added to our stream there."""
    named = _read_subject(subject)
    _ask(load_process_settings(settings), name, lambda stream: stream.add_subject(named))
    _print_done({"added": True}, json, "added")


@signals_app.command("remove-subject")
def remove_subject(
    name: NameArgument, subject: SubjectArgument, settings: SettingsFileOption = None, json: JsonOption = False
) -> None:
    """Have a subject removed from our stream there."""
    named = _read_subject(subject)
    _ask(load_process_settings(settings), name, lambda stream: stream.remove_subject(named))
    _print_done({"removed": True}, json, "removed")


def _print_done(answer: dict[str, bool], as_json: bool, told: str) -> None:
    """Tell what was done, as one JSON document or in words."""
    if as_json:
        write_json(answer)
    else:
        print_message(told)


def _read_subject(text: str) -> dict[str, Any]:
    try:
        return check_subject(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, InvalidSubject) as error:
        raise typer.BadParameter(f"{error}; expected JSON such as {SUBJECT_EXAMPLE}") from None


def _ask(settings: Settings, name: str, ask: Callable[[RemoteStream], Coroutine[Any, Any, T]]) -> T:
    """Make one call about a stream. Raises ConfigError: the settings have no such stream."""
    names = [transmitter.name for transmitter in settings.shared_signals.transmitters if transmitter.stream is not None]
    if name not in names:
        raise ConfigError(
            f"`shared_signals.transmitters` have no {name!r} with a `stream`: {', '.join(names) or 'none'}"
        )

    async def go() -> T:
        async with make_webhook_client(settings.outgoing.ca_file) as http:
            factory = ActuatorFactory(http, _make_signer, clock.now_ms, clock.monotonic)
            entry = next(
                transmitter for transmitter in settings.shared_signals.transmitters if transmitter.name == name
            )
            states = VerificationStates(key_folder(settings), clock.now_s)
            authenticator = factory.request_authenticator(entry.auth)
            stream = RemoteStream(entry, service_url(settings), http, authenticator, states)
            return await ask(stream)

    return asyncio.run(go())


def _make_signer(private_key: str, key_id: str, algorithm: str) -> AssertionSigner:
    return assertion_signer(private_key, key_id, algorithm, clock.now_s, new_id)
