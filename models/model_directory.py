"""Model directories: arrays, and a manifest that states the model's facts, its history, and the digest of every file.

    manifest.json
    detector/NAME.npy         arrays of the detector
    extras/GROUP/NAME.npy     other arrays, such as the baselines of the feature builder

Arrays are never pickled: loading a model runs no code from it.

`manifest.json` is a JSON object. Its `digest` is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of
all other members, so an edited manifest is noticed. That guards against damage and mix-ups; it is not a signature.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray

from trustwatch.ingest.durable_files import sync_directory, sync_file
from trustwatch.ingest.errors import ModelError

from .array_rules import ArrayForm, array_bytes

# Files are read with suspicion: plain files alone, no more of them than was said, and nothing but numbers. An attacker
# who can write the directory can put anything there: a named pipe or a device, which would be read forever; a sparse
# file, or a header that promises terabytes; a header that is nested until the parser gives up.


RESTORE_ADVICE: Final = "copy the model again or retrain"
_MEMORY_SHARE: Final = 3
"""Share of the machine's memory that a model may take: while it is loaded, its agents are in memory twice."""


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """An array of the model: digest of its file, element type and shape."""

    sha256: Annotated[str, msgspec.Meta(max_length=64)]
    dtype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**40)], ...]

    @property
    def form(self) -> ArrayForm:
        return ArrayForm(self.dtype, self.shape)


def open_plain_file(file: Path) -> BufferedReader:
    """Open a regular file. Reading a device or a named pipe might never end. Raises OSError."""
    stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "no plain file", str(file))
    return stream


def list_files(folder: Path, known: Collection[Path]) -> set[str]:
    """Return the paths of all files. A folder without a known array counts as one file."""
    paths, folders = set[str](), [Path()]
    while folders:
        inner = folders.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                path = inner / entry.name
                if entry.is_dir(follow_symlinks=False) and path in known:
                    folders.append(path)
                else:
                    paths.add(path.as_posix())
    return paths


def check_memory(folder: Path, files: Mapping[str, ArrayFile]) -> None:
    """Raise ModelError if the arrays would not fit into memory. A sparse file costs its author nothing."""
    needed = sum(array_bytes(file.form) for file in files.values())
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY_SHARE
    if needed > most:
        raise ModelError(
            f"{folder}: its arrays take {needed >> 20} MiB, and a model may take {most >> 20} MiB of this machine's "
            "memory: train on fewer agents or a shorter window, or use a larger machine"
        )


def load_array(folder: Path, name: str, expected: ArrayFile) -> NDArray[Any]:
    """Load the array of one file, reading only as much as the manifest states. Raises ModelError."""
    with _opened(folder, name) as stream:
        return _read_array(stream, folder / name, expected)


def _read_array(stream: BufferedReader, path: Path, expected: ArrayFile) -> NDArray[Any]:
    try:
        if read_magic(stream) != (1, 0):
            raise ValueError("another version of the format")
        shape, by_columns, dtype = read_array_header_1_0(stream, max_header_size=1024)
    except Exception as error:  # the header is Python text: its parser ends in many ways
        raise ModelError(f"{path}: expected a .npy array, found something else ({error}); {RESTORE_ADVICE}") from None
    if (dtype.str, shape) != (expected.dtype, expected.shape):
        raise ModelError(
            f"{path}: expected {expected.dtype} {expected.shape}, found {dtype.str} {shape}; {RESTORE_ADVICE}"
        )
    begins = stream.tell()
    if os.fstat(stream.fileno()).st_size != begins + array_bytes(ArrayForm(dtype.str, shape)):
        raise ModelError(f"{path}: more or fewer bytes than an array of {shape} has; {RESTORE_ADVICE}")
    array = np.empty(shape[::-1] if by_columns else shape, dtype)
    stream.seek(0)
    digest = hashlib.sha256(stream.read(begins))
    if array.size:
        body = array.reshape(-1).view(np.uint8).data
        stream.readinto(body)
        digest.update(body)
    check_digest(path, digest.hexdigest(), expected)
    return np.ascontiguousarray(array.T) if by_columns else array


def check_digest(path: Path, found: str, expected: ArrayFile) -> None:
    """Raise ModelError if a file differs from the manifest."""
    if found != expected.sha256:
        raise ModelError(f"{path}: expected sha256 {expected.sha256}, found {found}; it was changed: {RESTORE_ADVICE}")


MODEL_KIND = "trustwatch-model"
MODEL_FORMAT_VERSION = 6
"""Increased whenever a program of the old version could misread the files; the tests have a golden model of every
version."""
MANIFEST_FILE = "manifest.json"
_ARRAY_PATH = re.compile(r"(detector|extras/[a-z0-9][a-z0-9_]*)/[a-z0-9][a-z0-9_]*\.npy")  # never outside the directory
_PLAIN_TYPE = re.compile(r"\|[biu]1|<[iu][248]|<f[248]")
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MANIFEST_DEPTH: Final = 16
_LIBRARIES = ("numpy", "numba", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that a model's numbers depend on, without importing them."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class TrainingWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The history that a model has seen: first and last event time (Unix milliseconds), numbers of events, agents and
    sessions."""

    from_ms: _Whole
    to_ms: _Whole
    events: _Whole
    agents: _Whole
    sessions: _Whole


class ModelManifest(msgspec.Struct, frozen=True):
    """Facts about a model, stated by the program that trained it."""

    # name of the model, written into every decision
    model_version: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    feature_names: tuple[_Text, ...]  # names of the features, in order
    feature_table_hash: _Text  # digest of the feature table that the model was trained on
    window: TrainingWindow  # the history it was trained on
    settings: dict[_Text, Any]  # JSON-able settings; `settings["detector"]` are the `DetectorSettings`
    # salt of the name hashes that the baselines are written in, hexadecimal
    salt_hex: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}){1,64}$")]
    created_ms: _Whole  # when it was trained, Unix milliseconds
    # versions of the libraries that made it
    libraries: dict[_Text, _Text] = msgspec.field(default_factory=library_versions)

    @property
    def learns(self) -> bool:
        """True for the model of a service that has not learned anything yet."""
        return self.window.events == 0


def encode_manifest(manifest: ModelManifest, files: Mapping[str, ArrayFile]) -> bytes:
    """Encode `manifest.json` of a model with these array files (paths relative to the model, separated by `/`)."""
    content: dict[str, Any] = {
        "kind": MODEL_KIND,
        "format_version": MODEL_FORMAT_VERSION,
        **msgspec.to_builtins(manifest),
    }
    content["files"] = {path: msgspec.to_builtins(file) for path, file in files.items()}
    content = json.loads(json.dumps(content))
    content["digest"] = manifest_digest(content)
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def manifest_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256, hexadecimal, of the canonical JSON of all members except `digest`."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def decode_manifest(raw: bytes, where: str) -> tuple[ModelManifest, dict[str, ArrayFile], str]:
    """Decode `manifest.json`: the facts, the array files and its digest. *where* is its path, for messages.

    Raises ModelError if it is not a manifest, of another format version, or was edited.
    """
    try:
        content = json.loads(raw, parse_constant=_refuse_constant)
        nested = _nesting(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not JSON ({error}); the model is damaged: copy it again or retrain") from None
    if nested > MAX_MANIFEST_DEPTH:
        raise ModelError(f"{where} is nested more than {MAX_MANIFEST_DEPTH} deep; no manifest is: copy it again")
    if not isinstance(content, dict) or content.get("kind") != MODEL_KIND:
        raise ModelError(
            f'{where} has no "kind": "{MODEL_KIND}"; this is not a Trustwatch model: give another directory'
        )
    format_version = content.get("format_version")
    if format_version != MODEL_FORMAT_VERSION:
        raise ModelError(
            f"{where}: expected format version {MODEL_FORMAT_VERSION}, found {format_version!r:.80}; "
            "retrain, or run the version of Trustwatch that wrote it"
        )
    expected = manifest_digest(content)
    if content.get("digest") != expected:
        raise ModelError(
            f"{where}: expected digest {expected}, found {content.get('digest')!r:.80}; "
            "it was edited: copy it again or retrain"
        )
    return *_parse_manifest(content, where), expected


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _nesting(content: object) -> int:
    depth, level = 0, [content]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
    return depth


class _ManifestDocument(msgspec.Struct):
    """The required members of `manifest.json`, which an older program may not have written."""

    libraries: dict[_Text, _Text]
    files: dict[_Text, ArrayFile]


def _parse_manifest(content: Mapping[str, Any], where: str) -> tuple[ModelManifest, dict[str, ArrayFile]]:
    try:
        manifest = msgspec.convert(content, ModelManifest)
        document = msgspec.convert(content, _ManifestDocument)
    except (TypeError, UnicodeError, msgspec.ValidationError) as error:
        raise ModelError(f"{where}: a member is missing or of the wrong type ({error}); retrain") from None
    for path, file in document.files.items():
        if not _ARRAY_PATH.fullmatch(path):
            raise ModelError(
                f"{where}: {path!r} is not the name of an array file; the manifest was edited: copy it again or retrain"
            )
        if not _PLAIN_TYPE.fullmatch(file.dtype):
            raise ModelError(f"{where}: {path} of type {file.dtype!r}; only plain numbers can be stored: retrain")
    return manifest, document.files


# Writing is all or nothing. Everything goes to a directory next to the target, is flushed to disk, and is then renamed.
# A model that is replaced is first renamed to `.NAME.previous`; if the machine stops between the two renames, loading
# takes that one.


Arrays = Mapping[str, NDArray[Any]]


class LoadedModel(NamedTuple):
    """A verified model: its manifest, the detector's arrays, and the extra arrays by group."""

    manifest: ModelManifest
    detector_state: dict[str, NDArray[Any]]
    extras: dict[str, dict[str, NDArray[Any]]]


def save_model(path: Path, detector_state: Arrays, extras: Mapping[str, Arrays], manifest: ModelManifest) -> None:
    """Write a model directory, replacing an older model there.

    Raises ModelError if *path* exists and is neither a Trustwatch model nor empty, or a name or array cannot be stored.
    """
    folders: dict[str, Arrays] = {"detector": detector_state}
    folders |= {f"extras/{group}": arrays for group, arrays in extras.items()}
    named = {f"{folder}/{name}.npy": array for folder, arrays in folders.items() for name, array in arrays.items()}
    for name in named:
        if not _ARRAY_PATH.fullmatch(name):
            raise ModelError(f"array name {name[:-4]!r} may only hold lower-case letters, digits and underscores")
    with _draft_of(Path(path).absolute()) as draft:
        files = {name: _write_array(draft / name, named[name], name) for name in sorted(named)}
        _write_bytes(draft / MANIFEST_FILE, encode_manifest(manifest, files))


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Create a directory next to *path* that replaces it after the caller has filled it; it is removed if that fails.

    The umask decides who may read the draft. Raises ModelError if *path* exists and is not a model.
    """
    # A wrong `--model` must destroy nothing.
    is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not is_model(path) and not is_empty:
        raise ModelError(f"{path} exists and is not a Trustwatch model; nothing was written: give another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(8)}")
    draft.mkdir()
    try:
        yield draft
        for folder in (draft, *(folder for folder in draft.rglob("*") if folder.is_dir())):
            sync_directory(folder)
        # At every moment either *path* or `.NAME.previous` is a complete model.
        previous = _previous_directory(path)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        draft.rename(path)
        sync_directory(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load_model(
    path: Path,
    *,
    feature_names: Sequence[str],
    feature_table_hash: str,
    check_forms: Callable[[Mapping[str, Mapping[str, ArrayForm]]], None] = lambda _forms: None,
) -> LoadedModel:
    """Read and verify a model directory.

    Raises ModelError if anything is missing, left over, damaged, edited, or does not fit this program. The message
    names the file, what was expected, what was found, and what to do.
    """
    folder = _current_directory(Path(path).absolute())
    manifest, files, _ = _read_manifest_file(folder)
    _check_features(folder / MANIFEST_FILE, manifest, feature_names, feature_table_hash)
    _check_listing(folder, files)
    forms: dict[str, dict[str, ArrayForm]] = {}
    for array_path, file in files.items():
        group, name = _split_array_path(array_path)
        forms.setdefault(group, {})[name] = file.form
    check_forms(forms)
    check_memory(folder, files)
    arrays: dict[str, dict[str, NDArray[Any]]] = {"detector": {}}
    for array_path, file in files.items():
        group, name = _split_array_path(array_path)
        arrays.setdefault(group, {})[name] = load_array(folder, array_path, file)
    return LoadedModel(manifest, arrays.pop("detector"), arrays)


def _split_array_path(path: str) -> tuple[str, str]:
    """Split the path of an array: `detector/x.npy` is `detector`, `x`; `extras/seeds/keys.npy` is `seeds`, `keys`."""
    *_, group, name = path.removesuffix(".npy").split("/")
    return group, name


def read_manifest(path: Path) -> tuple[ModelManifest, str]:
    """Read the manifest of a model directory and its digest without the arrays; raises as `decode_manifest`."""
    manifest, _, digest = _read_manifest_file(_current_directory(Path(path).absolute()))
    return manifest, digest


def _read_manifest_file(folder: Path) -> tuple[ModelManifest, dict[str, ArrayFile], str]:
    return decode_manifest(_read_manifest_bytes(folder), str(folder / MANIFEST_FILE))


def _read_manifest_bytes(folder: Path) -> bytes:
    file = folder / MANIFEST_FILE
    with _opened(folder, MANIFEST_FILE) as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError(f"{file} has more than {MAX_MANIFEST_BYTES} bytes; no manifest has: {RESTORE_ADVICE}")
    return data


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    try:
        with open_plain_file(folder / name) as stream:
            yield stream
    except OSError as error:
        raise ModelError(
            f"{folder / name} cannot be read ({error.strerror}); {folder} is not a complete model: {RESTORE_ADVICE}"
        ) from None


def copy_model(source: Path, target: Path) -> None:
    """Copy a model directory to *target*, replacing an older model there; all or nothing, as `save_model`.

    Raises:
        ModelError: as `save_model`, or *source* is damaged, or was replaced meanwhile.
        OSError: a file of *source* is missing, or the disk is full or refuses.
    """
    source = _current_directory(Path(source).absolute())
    with _draft_of(Path(target).absolute()) as draft:
        raw = _read_manifest_bytes(source)
        for name, file in decode_manifest(raw, str(source / MANIFEST_FILE))[1].items():
            copied = draft / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            with open_plain_file(source / name) as stream, copied.open("xb") as out:
                shutil.copyfileobj(stream, out)
                sync_file(out)
            with copied.open("rb") as written:
                check_digest(source / name, hashlib.file_digest(written, "sha256").hexdigest(), file)
        _write_bytes(draft / MANIFEST_FILE, raw)


def is_model(path: Path) -> bool:
    """Return whether *path* is a directory that holds a Trustwatch model of any format version, intact or not."""
    return _holds_model(_current_directory(Path(path).absolute()))


def _holds_model(path: Path) -> bool:
    try:
        with open_plain_file(path / MANIFEST_FILE) as stream:
            return f'"{MODEL_KIND}"'.encode() in stream.read(MAX_MANIFEST_BYTES)
    except OSError:
        return False


def _write_array(file: Path, array: NDArray[Any], name: str) -> ArrayFile:
    if not _PLAIN_TYPE.fullmatch(array.dtype.str):
        raise ModelError(f"{name} is of type {array.dtype}; only arrays of plain numbers can be stored")
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    _write_bytes(file, buffer.getbuffer())
    return ArrayFile(hashlib.sha256(buffer.getbuffer()).hexdigest(), array.dtype.str, array.shape)


def _write_bytes(file: Path, data: bytes | memoryview) -> None:
    with file.open("xb") as stream:
        stream.write(data)
        sync_file(stream)


def _previous_directory(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _current_directory(path: Path) -> Path:
    """Return *path*, or the previous model if a replacement was interrupted."""
    return _previous_directory(path) if not path.exists() and _holds_model(_previous_directory(path)) else path


def _check_features(file: Path, manifest: ModelManifest, names: Sequence[str], table_hash: str) -> None:
    advice = "retrain, or run the version of Trustwatch that the model was trained with"
    if manifest.feature_names != tuple(names):
        ours, theirs = set(names), set(manifest.feature_names)
        raise ModelError(
            f"{file}: expected {len(names)} features, found {len(manifest.feature_names)}; "
            f"missing {sorted(ours - theirs)}, unknown {sorted(theirs - ours)}, or another order; {advice}"
        )
    if manifest.feature_table_hash != table_hash:
        raise ModelError(f"{file}: expected feature table {table_hash}, found {manifest.feature_table_hash}; {advice}")


def _check_listing(folder: Path, files: Mapping[str, ArrayFile]) -> None:
    expected = {MANIFEST_FILE, *files}
    present = list_files(folder, {parent for path in files for parent in (*Path(path).parents,)})
    for name in sorted(expected - present):
        raise ModelError(f"{folder / name}: expected by the manifest, not found; {RESTORE_ADVICE}")
    for name in sorted(present - expected):
        raise ModelError(
            f"{folder / name}: not in the manifest; a model holds no other files: remove it, or {RESTORE_ADVICE}"
        )
