"""Keycloak from its distribution on Maven Central, with an H2 database in a file and its events in its log."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

from .kafka_jars import java
from .server import HOST, Server, answers
from .system import ServiceUnavailable, cache_folder, ensure_command, last_lines, locked, run

KEYCLOAK_VERSION = "26.7.3"

ADMIN = "admin"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
FETCH_S, BUILD_S = 900, 300
_OPENED = ("java.util", "java.util.concurrent", "java.security", "java.lang")


def keycloak_home(features: tuple[str, ...] = ()) -> Path:
    """Folder of a Keycloak that was built with *features*: 180 MB to fetch, half a minute to build, once.

    Raises:
        Unavailable: no Java, or it cannot be fetched or built.
    """
    folder = cache_folder() / "-".join(("keycloak", KEYCLOAK_VERSION, *sorted(features)))
    if not folder.is_dir():
        with locked(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                _fetch(folder, features)
    return folder


def _fetch(folder: Path, features: tuple[str, ...]) -> None:
    maven, program = ensure_command("mvn", "maven"), java()
    work = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder.parent))
    artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:zip"
    try:
        _must([maven, "-B", "-q", "-C", COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={work}"], FETCH_S, work)
        with zipfile.ZipFile(work / f"keycloak-quarkus-dist-{KEYCLOAK_VERSION}.zip") as archive:
            archive.extractall(work)
        made = work / f"keycloak-{KEYCLOAK_VERSION}"
        options = ["--db=dev-file", "--health-enabled=true", "--metrics-enabled=true"]
        if features:
            options.append(f"--features={','.join(features)}")
        _must(["nice", "sh", made / "bin" / "kc.sh", "build", *options], BUILD_S, work, {"JAVA": program})
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _must(command: list[str | Path], within_s: float, folder: Path, environment: dict[str, str] | None = None) -> None:
    try:
        done = run(command, timeout_s=within_s, folder=folder, environment=environment)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(
            f"Keycloak {KEYCLOAK_VERSION}: {command[0]} does not end within {within_s} s"
        ) from None
    if done.returncode != 0:
        raise ServiceUnavailable(f"Keycloak {KEYCLOAK_VERSION} can not be fetched or built:\n{last_lines(done.stdout)}")


class Keycloak(Server):
    """Keycloak over plain HTTP on loopback. Realms are for the caller to make, as the admin.

    Its log (`log`) has every event of every realm whose listeners include `jboss-logging`, as realms do by default:
    successes at INFO, failures at WARN, logger `org.keycloak.events`.
    """

    NAME = "keycloak"
    PORTS: ClassVar[tuple[str, ...]] = ("http", "management")
    DEFAULTS: ClassVar[dict[str, Any]] = {"features": (), "log_json": False, "heap_mb": 512}
    START_S: ClassVar[float] = 180.0

    @property
    def admin(self) -> tuple[str, str]:
        """User and password of the administrator in the realm `master`."""
        return ADMIN, str(self._state["password"])

    def issuer(self, realm: str) -> str:
        """As in the `iss` of that realm's tokens."""
        return f"{self.url}/realms/{realm}"

    def token_url(self, realm: str) -> str:
        """Token endpoint of a realm; introspection is at `{token_url}/introspect`."""
        return f"{self.issuer(realm)}/protocol/openid-connect/token"

    def jwks_url(self, realm: str) -> str:
        """Public keys of a realm's tokens."""
        return f"{self.issuer(realm)}/protocol/openid-connect/certs"

    def configure(self, *, features: tuple[str, ...] = (), log_json: bool = False, heap_mb: int = 512) -> None:
        """Set what the next `start` starts.

        Args:
            features: of Keycloak, in addition to those that are on by default; each set is built once.
            log_json: a JSON object per line of the log, instead of text.
            heap_mb: limit of the Java heap, MiB.
        """
        self._configure({"features": list(features), "log_json": log_json, "heap_mb": heap_mb})

    def _secrets(self) -> dict[str, Any]:
        return {"password": secrets.token_urlsafe(12)}

    def _files(self) -> dict[str, str]:
        given = self.settings
        text = f"""\
http-enabled=true
http-host={HOST}
http-port={self.port}
http-management-port={self.port_of("management")}
hostname={self.url}
proxy-headers=xforwarded
proxy-trusted-addresses=127.0.0.0/8
db-url=jdbc:h2:file:{self.folder}/data/keycloak;NON_KEYWORDS=VALUE
bootstrap-admin-username={ADMIN}
bootstrap-admin-password={self._state["password"]}
cache=local
log=console
log-level=INFO,io.smallrye.health:off
log-console-output={"json" if given["log_json"] else "default"}
log-console-color=false
spi-events-listener--jboss-logging--success-level=info
spi-events-listener--jboss-logging--error-level=warn
"""
        options = f"{','.join(given['features'])}\n{given['heap_mb']}\n"
        return {"keycloak.conf": text, "launch.txt": options}  # not read by Keycloak: a change of it causes a restart

    def _before(self) -> None:
        """Make a separate home (it writes there), whose programs are those of the cache."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        for part in self._distribution().iterdir():
            if part.name != "data":
                (home / part.name).symlink_to(part)

    def _distribution(self) -> Path:
        return keycloak_home(tuple(self.settings["features"]))

    def _command(self) -> list[str | Path]:
        """Build the command that `kc.sh` runs, since `kc.sh` does not replace its own process."""
        home, pool = self.folder / "home", "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
        return [
            java(),
            "-Xms64m",
            f"-Xmx{self.settings['heap_mb']}m",
            "-XX:MaxMetaspaceSize=256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-Dfile.encoding=UTF-8",
            "-Duser.language=en",
            "-Duser.country=US",
            "-Djava.security.egd=file:/dev/urandom",
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
            "--enable-native-access=ALL-UNNAMED",
            "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
            f"-Djava.util.concurrent.ForkJoinPool.common.threadFactory={pool}",
            "-Dpicocli.disable.closures=true",
            f"-Dkc.home.dir={home}",
            f"-Djboss.server.config.dir={home / 'conf'}",
            "-cp",
            self._distribution() / "lib" / "quarkus-run.jar",
            "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
            f"--config-file={self.folder / 'keycloak.conf'}",
            "start",
            "--optimized",
        ]

    def _ready(self) -> bool:
        return answers(f"{self.url_of('management')}/health/ready")
