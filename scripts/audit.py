"""Known weaknesses of what the locks install: `python -m scripts.audit [--advisories all.zip] [LOCK …]`.

pip-audit compares, with an advisory service or, on a machine that reaches none, with a copy of the advisories: the dump
of the ecosystem PyPI that OSV publishes as one archive of JSON files (`all.zip`), brought here by hand. The copy is
served to pip-audit on this machine's own address, in the form of OSV's own answers.

Exit: 0 nothing known, 1 weaknesses, 2 nothing was checked. A package that the service does not know is not checked,
    which pip-audit alone does not report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, NoReturn
from zipfile import BadZipFile, ZipFile

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

LOCKS: Final = ("requirements", "build", "development", "fuzz", "bench")
ECOSYSTEM: Final = "PyPI"
_BEFORE_ALL: Final = Version("0.dev0")
Advisory = Mapping[str, Any]
Advisories = Mapping[str, Sequence[Advisory]]


def read_advisories(archive: Path) -> dict[str, list[Advisory]]:
    """Advisories of a dump by canonical name of the package. Exits if it is not a dump."""
    found: dict[str, list[Advisory]] = {}
    try:
        with ZipFile(archive) as entries:
            for name in entries.namelist():
                advisory = json.loads(entries.read(name))
                packages = (affected["package"] for affected in advisory.get("affected", ()))
                for package in {canonicalize_name(one["name"]) for one in packages if one["ecosystem"] == ECOSYSTEM}:
                    found.setdefault(package, []).append(advisory)
    except (OSError, BadZipFile, ValueError, LookupError, TypeError, AttributeError) as error:
        _nothing_checked(f"{archive} is no dump of OSV's advisories ({error})")
    if not found:
        _nothing_checked(f"{archive} has no advisory of the ecosystem {ECOSYSTEM}")
    return found


def affects(advisory: Advisory, name: str, version: str) -> bool:
    """Return whether an advisory names this version of a package: in its list, or in a range."""
    installed = Version(version)
    for affected in advisory["affected"]:
        package = affected["package"]
        if package["ecosystem"] != ECOSYSTEM or canonicalize_name(package["name"]) != name:
            continue
        if any(_parse_version(listed) == installed for listed in affected.get("versions", ())):
            return True
        ranges = (one["events"] for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM")
        if any(_is_within(events, installed) for events in ranges):
            return True
    return False


def _parse_version(text: str) -> Version | None:
    try:
        return _BEFORE_ALL if text == "0" else Version(text)
    except InvalidVersion:
        return None


def _is_within(events: Sequence[Mapping[str, str]], installed: Version) -> bool:
    """True if the last event that is not after *installed* leaves it affected."""
    steps = [(at, kind) for event in events for kind, text in event.items() if (at := _parse_version(text)) is not None]
    within = False
    for at, kind in sorted(steps):
        if kind == "introduced" and at <= installed:
            within = True
        elif (kind == "fixed" and at <= installed) or (kind == "last_affected" and at < installed):
            within = False
    return within


class _QueryHandler(BaseHTTPRequestHandler):
    """`POST /v1/query` of OSV, answered from a copy."""

    def __init__(self, advisories: Advisories, *arguments: Any) -> None:
        self._advisories = advisories
        super().__init__(*arguments)

    def do_POST(self) -> None:
        """Advisories of one version of one package."""
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = canonicalize_name(query["package"]["name"])
        vulns = [one for one in self._advisories.get(name, ()) if affects(one, name, query["version"])]
        body = json.dumps({"vulns": vulns} if vulns else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: a line for each package is not useful."""


@contextmanager
def served(advisories: Advisories) -> Iterator[list[str]]:
    """Arguments that let pip-audit ask a copy of the advisories."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QueryHandler, advisories))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield ["--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit_lock(lock: Path, where: Sequence[str]) -> list[str]:
    """Weaknesses of what one lock installs, a line each. Exits if not all of it was checked."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
        command += ["--strict", "--vulnerability-service", "osv", *where, "--cache-dir", folder, "--timeout", "30"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report)]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if not report.exists() or not report.stat().st_size:
            last = (done.stdout.strip().splitlines() or ["pip-audit said nothing"])[-1]
            _nothing_checked(f"{lock}: no advisory service answered ({last[:300]})")
        found = json.loads(report.read_text())["dependencies"]
    sys.stdout.write(f"{lock}: {len(found)} packages\n")
    return [
        f"  {one['name']} {one['version']}: {weakness['id']}, fixed in {', '.join(weakness['fix_versions']) or 'none'}"
        for one in found
        for weakness in one["vulns"]
    ]


def _nothing_checked(why: str) -> NoReturn:
    sys.stderr.write(
        f"{why}.\nNOTHING WAS CHECKED. Run this where OSV's service is reached, or bring its dump of the ecosystem "
        f"{ECOSYSTEM} here: make audit ARGS='--advisories all.zip' (CONTRIBUTING.md)\n"
    )
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the requested locks; return 1 if a weakness is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locks", nargs="*", type=Path, help="by default all of deploy/")
    parser.add_argument("--advisories", type=Path, metavar="ALL.ZIP", help="a dump instead of the service")
    given = parser.parse_args(arguments)
    advisories = None if given.advisories is None else read_advisories(given.advisories)
    if advisories is not None:
        newest = max((str(one.get("modified", "")) for some in advisories.values() for one in some), default="")
        sys.stdout.write(f"{given.advisories}: advisories of {len(advisories)} packages, the newest of {newest}\n")
    source: AbstractContextManager[list[str]] = nullcontext([]) if advisories is None else served(advisories)
    with source as where:
        known = [
            line
            for lock in given.locks or [Path("deploy", f"{name}.lock") for name in LOCKS]
            for line in audit_lock(lock, where)
        ]
    sys.stdout.write("\n".join([*known, f"{len(known)} known weaknesses"]) + "\n")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
