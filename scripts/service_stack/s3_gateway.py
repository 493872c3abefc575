"""VersityGW, a server of Amazon's S3 over files of a folder, built once with Go into the cache."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, ClassVar

from .go_program import built_go_command
from .server import HOST, Server, answers

VERSITYGW_VERSION = "1.8.0"
MODULE = "github.com/versity/versitygw"
GO_MOD = f"""\
module trustwatch/versitygw

go 1.25.0

require {MODULE} v{VERSITYGW_VERSION}
"""
HEALTH_PATH = "/_health"


def versitygw_program() -> Path:
    """Path of the program, built where it is not in the cache: 85 s of one core, 250 MiB of modules.

    Raises:
        Unavailable: no Go, or it can not be fetched or built.
    """
    return built_go_command("versitygw", f"{MODULE}/cmd/versitygw", GO_MOD)


class S3Gateway(Server):
    """A server of S3 on `url`: each folder in `buckets` is a bucket, its files are objects."""

    NAME = "versitygw"
    PORTS: ClassVar[tuple[str, ...]] = ("s3",)
    REGION: ClassVar[str] = "us-east-1"

    @property
    def buckets(self) -> Path:
        """Folder of the buckets."""
        return self.folder / "buckets"

    @property
    def access_key(self) -> str:
        """Name of the account that may do everything."""
        return str(self._state["access_key"])

    @property
    def secret_key(self) -> str:
        """Secret of that account."""
        return str(self._state["secret_key"])

    def make_bucket(self, name: str) -> None:
        """Make a bucket, empty, where it does not exist."""
        (self.buckets / name).mkdir(parents=True, exist_ok=True)

    def client_environment(self) -> dict[str, str]:
        """Variables by which clients of S3 find the server and its account."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": self.REGION,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def _secrets(self) -> dict[str, Any]:
        return {"access_key": f"trustwatch-{secrets.token_hex(4)}", "secret_key": secrets.token_urlsafe(24)}

    def _environment(self) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}

    def _files(self) -> dict[str, str]:
        return {}

    def _before(self) -> None:
        for folder in (self.buckets, self._metadata):
            folder.mkdir(exist_ok=True)

    @property
    def _metadata(self) -> Path:
        return self.folder / "metadata"

    def _command(self) -> list[str | Path]:
        listen = ["--port", f"{HOST}:{self.port}", "--region", self.REGION, "--health", HEALTH_PATH]
        # Beside the objects, since not every file system keeps extended attributes.
        return [versitygw_program(), *listen, "posix", "--sidecar", self._metadata, self.buckets]

    def _ready(self) -> bool:
        return answers(self.url + HEALTH_PATH)
