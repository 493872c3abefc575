"""Image and compose file speak of what there is: settings, commands, files, versions. Docker itself is not needed."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name
from typer.main import get_command

from scripts.service_stack import KAFKA_VERSION
from trustwatch.api.cli.main import make_app
from trustwatch.api.file_access import closed_bits
from trustwatch.api.service.backends import ServiceRoles, check_service_roles
from trustwatch.api.settings.loading import SETTINGS_FILE, SHORT_NAMES, load_settings

from ..support.checkout import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SCRIPTS = [path for path in sorted((ROOT / "deploy").iterdir()) if path.read_bytes().startswith(b"#!/bin/sh")]
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+(\.\d+)+(-[a-z0-9.-]+)?(@sha256:[0-9a-f]{64})?")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY\b")


def environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(re.findall(r"^\s+(?:ENV )?(TRUSTWATCH_\w+)=(\S+)", DOCKERFILE, re.MULTILINE)) | service["environment"]


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        if "entrypoint" not in service:
            yield f"compose {name}", service["command"]
    for script in SCRIPTS:
        for line in script.read_text().splitlines():
            if re.match(r"\s*trustwatch (?!\(\))", line):
                call = re.sub(r"\$\w+", "value", line.split(" > ")[0])
                yield f"{script.name}: {line.strip()}", shlex.split(call)[1:]
    yield "Dockerfile", re.findall(r'"(\S+?)"', re.findall(r"^CMD (.*)", DOCKERFILE, re.MULTILINE)[-1])


def options(arguments: list[str]) -> dict[str, Any]:
    """The command and its options as typer understands them; anything unknown is a usage error."""
    command, words, found = get_command(make_app()), list(arguments), {}
    while hasattr(command, "resolve_command"):
        _, found_command, words = command.resolve_command(command.make_context("trustwatch", words[:1]), words)
        assert found_command is not None
        command = found_command
    found = command.make_context("trustwatch", words).params
    return {"command": command, **found}


@pytest.mark.parametrize(("where", "arguments"), list(commands()), ids=[where for where, _ in commands()])
def test_every_command_exists(where: str, arguments: list[str]) -> None:
    assert options(arguments)["command"].name


def test_kernels_of_the_image_are_readable_by_its_user(tmp_path: Path) -> None:
    """The build runs as root and commands work with umask 077, while the container copies kernels as another user."""
    command, kernels = tmp_path / "bin" / "trustwatch", tmp_path / "kernels"
    command.parent.mkdir()
    writes = 'mkdir -p "$NUMBA_CACHE_DIR/$1"; touch "$NUMBA_CACHE_DIR/$1/kernel.nbc"'
    command.write_text(f"#!/bin/sh\numask {closed_bits({}):o}; {writes}\n")
    command.chmod(0o755)
    paths = os.pathsep.join((str(command.parent), os.environ["PATH"]))

    subprocess.run(
        [ROOT / "deploy" / "warm-kernels"], env={"PATH": paths, "NUMBA_CACHE_DIR": str(kernels)}, check=True, timeout=60
    )

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (kernels, *kernels.rglob("*"))}
    assert modes["compile"] & 0o055 == 0o055
    assert all(mode & 0o004 for mode in modes.values())


def test_every_variable_is_a_setting() -> None:
    """A misspelt variable would be ignored in silence."""
    texts = [DOCKERFILE, (ROOT / "docker-compose.yml").read_text(), *(path.read_text() for path in SCRIPTS)]
    texts.append((ROOT / "deploy" / "healthcheck.py").read_text())
    named = {name for text in texts for name in re.findall(r"\bTRUSTWATCH_\w+", text)}

    assert "TRUSTWATCH_STORE_URL" in named
    assert named <= {*SHORT_NAMES, SETTINGS_FILE}


@pytest.mark.parametrize("name", OURS)
def test_settings_load_for_every_service(name: str, tmp_path: Path) -> None:
    """The settings file that is mounted, with the variables of that service, and its role may run with them."""
    (tmp_path / "postgres_password").write_text("a password\n")
    text = (ROOT / "deploy" / "settings.yaml").read_text().replace("/run/secrets", str(tmp_path))
    (tmp_path / "settings.yaml").write_text(text)
    service = OURS[name]

    settings = load_settings(tmp_path / "settings.yaml", environment(service))

    assert "postgres_password" in service["secrets"]
    assert environment(service)[SETTINGS_FILE] == service["configs"][0]["target"]
    if service.get("command", [""])[0] == "serve":
        given = options(service["command"])
        check_service_roles(ServiceRoles(api=not given["workers_only"], workers=not given["api_only"]), settings)


def test_images_are_pinned() -> None:
    """By version, and Kafka to the version that the tests run."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - stages
    images = {service["image"] for service in SERVICES.values()}

    assert bases
    assert [image for image in bases | images if not PINNED.fullmatch(image)] == []
    assert f"apache/kafka:{KAFKA_VERSION}" in images
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in OURS.values()} == {f"trustwatch:{version}"}


LOCKED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; [^\\\n]*[^\\\s])?(?P<hashes>( \\\n +--hash=sha256:[0-9a-f]{64})*)$",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "deploy").glob("*.lock")))
def test_every_locked_dependency_has_its_hashes(name: str) -> None:
    """A line without one would be installed whatever it is, and pip refuses the rest then; no registry is named."""
    text = (ROOT / "deploy" / name).read_text()
    locked = list(LOCKED.finditer(text))

    assert locked
    assert [found["name"] for found in locked if not found["hashes"]] == []
    assert LOCKED.sub("", re.sub(r"^#.*$", "", text, flags=re.MULTILINE)).strip() == ""
    assert "://" not in text


def test_the_lock_is_what_was_tested() -> None:
    """The versions of constraints.txt, all of them, and the image installs nothing else."""
    pins = re.findall(r"^[^#\s].*$", (ROOT / "deploy" / "constraints.txt").read_text(), re.MULTILINE)
    locked = LOCKED.finditer((ROOT / "deploy" / "requirements.lock").read_text())

    wanted = {(canonicalize_name(name), version) for name, version in (pin.split("==") for pin in pins)}
    assert {(canonicalize_name(found["name"]), found["version"]) for found in locked} == wanted
    installs = re.findall(r"pip (?:--python \S+ )?install [^&]*", DOCKERFILE)
    assert [call for call in installs if "--require-hashes" not in call and "--no-index" not in call] == []


def test_whoever_is_waited_for_can_be_waited_for() -> None:
    """A service that must be healthy has a health check; one that must be done ends by itself."""
    conditions = [
        (other, wanted["condition"])
        for service in SERVICES.values()
        for other, wanted in service.get("depends_on", {}).items()
    ]

    assert ("kafka", "service_healthy") in conditions
    for other, condition in conditions:
        if condition == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"], other
        else:
            assert (condition, SERVICES[other]["restart"]) == ("service_completed_successfully", "no"), other


def test_everything_that_runs_on_has_a_health_check() -> None:
    lasting = {name for name, service in SERVICES.items() if service["restart"] != "no"}
    checked = {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})}

    assert lasting == {"worker", "api", "kafka", "postgres", "prometheus", "grafana"}
    assert lasting - checked == {"worker", "api"}
    assert "HEALTHCHECK" in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights(name: str) -> None:
    """Read-only, without capabilities, no way to more."""
    service = OURS[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_no_secret_in_clear() -> None:
    """Secrets are files; nothing is published but on this machine itself."""
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert not SECRET.search(variable) or variable.endswith("_FILE"), f"{name}: {variable}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {variable} holds a password"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert all(f"/{Path(secret['file']).parent}/" in ignored for secret in COMPOSE["secrets"].values())


def test_what_is_mounted_is_declared() -> None:
    """Volumes, secrets and configurations that services use exist, and the files among them too."""
    for service in SERVICES.values():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert {one["source"] for one in service.get("configs", [])} <= set(COMPOSE["configs"])
    assert all((ROOT / config["file"]).is_file() for config in COMPOSE["configs"].values())


def test_prometheus_finds_our_services() -> None:
    """It asks for the names and the port that there are, with the token that `first-start` writes."""
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    token = job["authorization"]["credentials_file"]

    assert set(found["names"]) == {name for name, service in OURS.items() if service["restart"] != "no"}
    assert found["port"] == int(environment(OURS["api"])["TRUSTWATCH_LISTEN_PORT"])
    assert token in (ROOT / "deploy" / "first-start").read_text()
    assert any(volume.split(":")[1] == str(Path(token).parent) for volume in SERVICES["prometheus"]["volumes"])


def test_the_image_is_built_from_files_that_reach_it() -> None:
    """Each one copied exists and is not kept out by `.dockerignore`; every folder of code is copied."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    folders = {path.name for path in (ROOT / "trustwatch").iterdir() if path.is_symlink()}

    assert {"trustwatch", *folders} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in let_in, path
        assert not any(fnmatch.fnmatch(path, rule) for rule in rules if rule not in ("*",) and rule[0] != "!"), path


def test_the_image_runs_as_nobody() -> None:
    """By number, so that a cluster can check that it is not root; programs that are run may be run."""
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)

    assert int(user) > 0
    assert "apt-get" not in last
    assert "pip install" not in last
    assert all(os.access(script, os.X_OK) for script in SCRIPTS)
