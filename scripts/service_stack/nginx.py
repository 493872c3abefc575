"""NGINX with auth_request and a JSON access log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

from .downloads import program_from_deb
from .gateway_server import Gateway
from .server import HOST
from .system import ServiceUnavailable, run

ACCESS_LOG = """{"time":"$time_iso8601","remote_addr":"$remote_addr","method":"$request_method","uri":"$request_uri",\
"status":$status,"bytes_sent":$body_bytes_sent,"request_time":$request_time,"request_id":"$request_id",\
"user_agent":"$http_user_agent","upstream_addr":"$upstream_addr","upstream_status":"$upstream_status"}"""


class Nginx(Gateway):
    """NGINX of the system, or Debian's unpacked in the cache."""

    NAME = "nginx"
    PORTS: ClassVar[tuple[str, ...]] = ("http",)
    START_S: ClassVar[float] = 60.0

    def _files(self) -> dict[str, str]:
        given = self._given()
        # Without a master process, kill -9 leaves no worker behind, and root's folder does not block one.
        kept = "".join(f"  {kind}_temp_path {self.folder}/temp/{kind};\n" for kind in _TEMPORARY)
        text = f"""\
daemon off;
master_process off;
pid {self.folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
http {{
  log_format agents escape=json '{ACCESS_LOG}';
  access_log {self.access_log} agents;
{kept}  server {{
    listen {HOST}:{self.port};
    location / {{
      auth_request /_check;
      auth_request_set $risk_level $upstream_http_x_risk_level;
      auth_request_set $approval_id $upstream_http_x_approval_id;
      add_header X-Approval-Id $approval_id always;
      proxy_set_header X-Risk-Level $risk_level;
      proxy_pass {given["upstream"].rstrip("/")};
    }}
    location = /_check {{
      internal;
      proxy_pass {given["check"]};
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Forwarded-Method $request_method;
      proxy_set_header X-Forwarded-Uri $request_uri;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Request-Id $request_id;
    }}
  }}
}}
"""
        return {"nginx.conf": text}

    def _before(self) -> None:
        (self.folder / "temp").mkdir(exist_ok=True)

    def _command(self) -> list[str | Path]:
        return [nginx_program(), "-p", self.folder, "-e", "stderr", "-c", self.folder / "nginx.conf"]


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_program() -> Path:
    """Path of an NGINX that can do auth_request.

    Raises:
        Unavailable: there is none and none can be fetched, or it was built without auth_request.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    program = Path(found) if found else program_from_deb("nginx", "usr/sbin/nginx")
    said = run([program, "-V"]).stdout
    if "http_auth_request" not in said:
        raise ServiceUnavailable(f"{program} can not do auth_request; it says:\n{said}")
    return program
