"""`trustwatch signals`: our streams at transmitters, without a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, TypeVar

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
from ..composition import new_id
from ..http.auth.signing import assertion_signer
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from .remote_stream import RemoteStream
from .transmitter_context import VerificationStates, key_folder

T = TypeVar("T")

SUBJECT_EXAMPLE: Final = '{"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}'
StatusName = Literal["enabled", "paused", "disabled"]
Action = Literal["keep", "status", "verify", "add-subject", "remove-subject", "delete"]


def signals(
    action: Annotated[
        Action,
        typer.Argument(
            help="keep: make our stream there, or change it to what the settings say, as `serve` does at start; "
            "status: print its status, or set it; verify: have a verification sent, of which the log of the running "
            "service tells; add-subject, remove-subject: one subject of it; delete: remove it, also from the settings, "
            "or `serve` makes it again"
        ),
    ],
    name: Annotated[str, typer.Argument(help="transmitter of `shared_signals.transmitters` that has a `stream`")],
    subject: Annotated[
        str, typer.Argument(help=f"of add-subject and remove-subject: identifier (RFC 9493) in JSON: {SUBJECT_EXAMPLE}")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="with keep: replace all of it, whatever it is there")
    ] = False,
    wanted: Annotated[
        StatusName | None,
        typer.Option("--set", help="with status: have it so; paused keeps what waits, disabled does not"),
    ] = None,
    reason: Annotated[str, typer.Option(help="with --set: why, for the transmitter")] = "",
    settings: SettingsFileOption = None,
    json: JsonOption = False,
) -> None:
    """Manage our stream at a transmitter of shared signals: make, change, pause and verify it, or remove it."""
    subject_error = "add-subject and remove-subject take one, other actions none"
    for wrong, error, hint in (
        (bool(subject) != action.endswith("-subject"), subject_error, "SUBJECT"),
        (replace and action != "keep", "goes with keep", "--replace"),
        (wanted is not None and action != "status", "goes with status", "--set"),
        (bool(reason) and wanted is None, "a reason goes with --set", "--reason"),
    ):
        if wrong:
            raise typer.BadParameter(error, param_hint=hint)
    try:
        named = check_subject(msgspec.json.decode(subject)) if subject else {}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, InvalidSubject) as error:
        raise typer.BadParameter(f"{error}; expected JSON such as {SUBJECT_EXAMPLE}") from None

    async def act(stream: RemoteStream) -> tuple[dict[str, Any], str]:
        match action:
            case "keep":
                kept = await stream.keep(replace=replace)
                answer = {"stream_id": kept.stream_id, "poll_url": kept.poll_url or None, "changed": kept.changed}
                delivery = f"polled at {kept.poll_url}" if kept.poll_url else "pushed"
                return answer, f"stream {kept.stream_id}: {delivery}"
            case "status":
                now = await (stream.status() if wanted is None else stream.set_status(wanted, reason))
                answer = {"stream_id": now.stream_id, "status": now.status, "reason": now.reason}
                return answer, now.status + (f": {printable_line(now.reason, 200)}" if now.reason else "")
            case "verify":
                await stream.verify()
                text = "requested: the log of the service has signal_stream_verified once it comes, or set_refused"
                return {"asked": True}, text
            case "delete":
                removed = await stream.delete()
                return {"removed": removed}, "removed" if removed else "we have no stream there"
        done = "added" if action == "add-subject" else "removed"
        await stream.set_subject(named, wanted=done == "added")
        return {done: True}, done

    answer, text = asyncio.run(_with_stream(load_process_settings(settings), name, act))
    if json:
        write_json(answer)
    else:
        print_message(text)


async def _with_stream(settings: Settings, name: str, act: Callable[[RemoteStream], Awaitable[T]]) -> T:
    entries = {entry.name: entry for entry in settings.shared_signals.transmitters if entry.stream is not None}
    if name not in entries:
        listed = ", ".join(entries) or "none"
        raise ConfigError(f"`shared_signals.transmitters` have no {name!r} with a `stream`: {listed}")

    def make_signer(private_key: str, key_id: str) -> AssertionSigner:
        return assertion_signer(private_key, key_id, clock.now_s, new_id)

    async with make_webhook_client(settings.outgoing.ca_file) as http:
        factory = ActuatorFactory(http, make_signer, clock.now_ms, clock.monotonic)
        states = VerificationStates(key_folder(settings), clock.now_s)
        authenticator = factory.request_authenticator(entries[name].auth)
        return await act(RemoteStream(entries[name], settings.listen.url(), http, authenticator, states))
