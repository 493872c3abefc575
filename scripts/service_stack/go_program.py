"""Programs in Go, built if they are not in the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .system import ServiceUnavailable, cache_folder, ensure_command, last_lines, locked, run

GO = Path("/usr/local/go/bin/go")
"""Where Go's own installation puts it, often outside PATH."""
BUILD_S = 1800


def go_command() -> str:
    """Go's own command. Raises Unavailable: there is none."""
    if shutil.which("go") is None and GO.exists():
        return str(GO)
    return ensure_command("go", "golang-go")


def go_program(source: Path, module: str, version: str) -> Path:
    """Path of the program of one file, which needs one module.

    Raises:
        Unavailable: no Go, or it cannot be fetched or built.
    """
    go_mod = f"module example\n\ngo 1.22\n\nrequire {module} {version}\n"
    return built_go_program(source.stem, source.read_text(encoding="utf-8"), go_mod)


def built_go_program(name: str, main_go: str, go_mod: str) -> Path:
    """Path of the program *name*, built of its one file and its modules if that was not done before.

    Raises:
        Unavailable: no Go, or it cannot be fetched or built.
    """
    return _cached(name, {"main.go": main_go, "go.mod": go_mod}, ".")


def built_go_command(name: str, package: str, go_mod: str) -> Path:
    """Path of the program *name*, built of the *package* of one of its modules if that was not done before.

    Raises:
        Unavailable: no Go, or it cannot be fetched or built.
    """
    return _cached(name, {"go.mod": go_mod}, package)


def _cached(name: str, files: dict[str, str], package: str) -> Path:
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:16]
    program = cache_folder() / f"{name}-{digest}" / name
    if not program.exists():
        with locked(program.parent.with_name(program.parent.name + ".lock")):
            if not program.exists():
                _build(files, package, program)
    return program


def _require_version(go: str, go_mod: str, name: str) -> None:
    """Raise Unavailable if this Go is older than *go_mod* requires: its own error would only name that file."""
    needed = re.search(r"^go (\d+)\.(\d+)", go_mod, re.MULTILINE)
    found = re.search(r"go(\d+)\.(\d+)", run([go, "version"]).stdout)
    if needed and found and _numbers(found) < _numbers(needed):
        raise ServiceUnavailable(f"{name} needs Go {needed[1]}.{needed[2]} or newer; {go} is {found[1]}.{found[2]}")


def _numbers(found: re.Match[str]) -> tuple[int, int]:
    return int(found[1]), int(found[2])


def _build(files: dict[str, str], package: str, program: Path) -> None:
    go = go_command()
    _require_version(go, files["go.mod"], program.name)
    work = Path(tempfile.mkdtemp(prefix="go-", dir=cache_folder()))
    try:
        for name, text in files.items():
            (work / name).write_text(text)
        command: list[str | Path] = ["nice", go, "build", "-mod=mod", "-p", "1", "-trimpath", "-ldflags", "-s -w", "-o"]
        made = work / "out" / program.name
        done = run([*command, made, package], folder=work, environment={"CGO_ENABLED": "0"}, timeout_s=BUILD_S)
        if done.returncode != 0:
            raise ServiceUnavailable(f"Go can not fetch or build {program.name}:\n{last_lines(done.stdout)}")
        made.parent.rename(program.parent)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(f"Go did not build {program.name} within {BUILD_S} s") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
