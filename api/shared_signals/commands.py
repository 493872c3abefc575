"""`trustwatch signals`: our streams at transmitters, without a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer

from ...ingest.errors import ConfigError
from ...scoring.delivery.actuators.actuator_factory import ActuatorFactory
from ...scoring.delivery.actuators.authenticators import AssertionSigner
from ...scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from .. import clock
from ..cli.terminal import JsonOption, SettingsFileOption, print_message, write_json
from ..composition import new_id, service_url
from ..http.auth.signing import assertion_signer
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from .remote_stream import RemoteStream

T = TypeVar("T")

signals_app = typer.Typer(
    name="signals",
    no_args_is_help=True,
    help="Our streams at transmitters of shared signals: make, change and verify one, or remove it.",
)

NameArgument = Annotated[str, typer.Argument(help="transmitter of `shared_signals.transmitters` that has a `stream`")]


@signals_app.command()
def keep(name: NameArgument, settings: SettingsFileOption = None, json: JsonOption = False) -> None:
    """Make our stream there, or change it to what the settings say, as `serve` does at start; tell its id."""
    kept = _ask(load_process_settings(settings), name, RemoteStream.keep)
    if json:
        write_json({"stream_id": kept.stream_id, "poll_url": kept.poll_url or None, "changed": kept.changed})
        return
    print_message(f"stream {kept.stream_id}: " + (f"polled at {kept.poll_url}" if kept.poll_url else "pushed"))


@signals_app.command()
def delete(name: NameArgument, settings: SettingsFileOption = None) -> None:
    """Remove our stream there; take it out of the settings, too, or `serve` makes it again at its next start."""
    removed = _ask(load_process_settings(settings), name, RemoteStream.delete)
    print_message("removed" if removed else "there is no stream of ours")


def _ask(settings: Settings, name: str, ask: Callable[[RemoteStream], Coroutine[Any, Any, T]]) -> T:
    """What comes of one call. Raises ConfigError: the settings have no such stream."""
    known = [one.name for one in settings.shared_signals.transmitters if one.stream is not None]
    if name not in known:
        raise ConfigError(
            f"`shared_signals.transmitters` have no {name!r} with a `stream`: {', '.join(known) or 'none'}"
        )

    async def go() -> T:
        async with make_webhook_client() as http:
            factory = ActuatorFactory(http, _make_signer, clock.now_ms, clock.monotonic)
            entry = next(one for one in settings.shared_signals.transmitters if one.name == name)
            stream = RemoteStream(entry, service_url(settings), http, factory.request_authenticator(entry.auth))
            return await ask(stream)

    return asyncio.run(go())


def _make_signer(private_key: str, key_id: str, algorithm: str) -> AssertionSigner:
    return assertion_signer(private_key, key_id, algorithm, clock.now_s, new_id)
