"""Digests of the images that we name: `python -m scripts.image_digests [--write]`.

Queries the images' registry with the first of docker (buildx), crane and skopeo that is installed. Without `--write`
each image is compared: one that is pinned to another digest than its version has now is reported. With it the digests
are written after the versions (`name:version@sha256:…`) in `Dockerfile` and `docker-compose.yml`.

Exit: 0 every image was queried, and each pin is the digest of its version; 1 some pin differs, regardless of the
    others; 2 a digest is unknown: no such program is installed, or the registry did not answer.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

FILES: Final = ("Dockerfile", "docker-compose.yml")
OWN_IMAGE: Final = "trustwatch"
_NAMED: Final = re.compile(
    r"^(?P<before>FROM |\s*image: )(?P<name>[a-z0-9./-]+):(?P<version>[\w.-]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.MULTILINE,
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ASKING: Final[Mapping[str, Sequence[str]]] = {
    "docker": ("docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"),
    "crane": ("crane", "digest"),
    "skopeo": ("skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}"),
}
WITHIN_S: Final = 60


class NamedImage(NamedTuple):
    """An image of one of the files; *digest* "" = it is not pinned."""

    name: str
    version: str
    digest: str

    @property
    def tag(self) -> str:
        """Name and version."""
        return f"{self.name}:{self.version}"


def find_images(root: Path) -> list[NamedImage]:
    """Images that the files take from a registry, each once."""
    found = (match for file in FILES for match in _NAMED.finditer((root / file).read_text(encoding="utf-8")))
    images = {NamedImage(match["name"], match["version"], match["digest"] or "") for match in found}
    return sorted(image for image in images if image.name != OWN_IMAGE)


def ask_digest(tag: str) -> str:
    """Return the current digest of *tag*. Raises LookupError if it cannot be found."""
    tool = next((name for name in _ASKING if shutil.which(name)), None)
    if tool is None:
        raise LookupError(f"none of {', '.join(_ASKING)} is installed")
    command = [*_ASKING[tool], f"docker://{tag}" if tool == "skopeo" else tag]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        raise LookupError(f"{tool} did not answer about {tag} within {WITHIN_S} s") from None
    digest = _DIGEST.fullmatch(done.stdout.strip())
    if done.returncode or digest is None:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LookupError(f"{tool} knows no digest of {tag} ({said[:300]})")
    return digest[0]


def ask_digests(images: Sequence[NamedImage]) -> tuple[dict[str, str], list[str]]:
    """Digests by tag, and errors for those that could not be found."""
    digests, unknown = {}, []
    for tag in {image.tag: None for image in images}:
        try:
            digests[tag] = ask_digest(tag)
        except LookupError as error:
            unknown.append(str(error))
    return digests, unknown


def write_digests(root: Path, digests: Mapping[str, str]) -> None:
    """Write the digest of each image behind its version."""
    for file in FILES:
        path = root / file
        text = path.read_text(encoding="utf-8")
        pinned = _NAMED.sub(lambda match: _pinned(match, digests), text)
        path.write_text(pinned, encoding="utf-8")


def _pinned(match: re.Match[str], digests: Mapping[str, str]) -> str:
    tag = f"{match['name']}:{match['version']}"
    return f"{match['before']}{tag}@{digests[tag]}" if tag in digests else match[0]


def compare(images: Sequence[NamedImage], digests: Mapping[str, str]) -> list[str]:
    """Print the current digest of each image; returns those that are pinned to another digest."""
    others = []
    for image in images:
        now = digests.get(image.tag, "")
        state = "not pinned" if not image.digest else "pinned"
        if not now:
            state = "NOT CHECKED"
        elif image.digest not in ("", now):
            state = f"PINNED TO {image.digest}"
            others.append(image.tag)
        sys.stdout.write(f"{image.tag}@{now or '?'}: {state}\n")
    return others


def main(arguments: Sequence[str] | None = None, root: Path = Path()) -> int:
    """Compare, or write, the digests of all images; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them into the files")
    given = parser.parse_args(arguments)
    images = find_images(root)
    digests, unknown = ask_digests(images)
    others = [] if given.write else compare(images, digests)
    if unknown:
        sys.stderr.write(
            f"{'; '.join(unknown)}.\nNOT EVERY DIGEST WAS CHECKED. Run this where docker, crane or skopeo reach the "
            "registry of the images (CONTRIBUTING.md, Images by digest)\n"
        )
    elif given.write:
        write_digests(root, digests)
    return 1 if others else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
