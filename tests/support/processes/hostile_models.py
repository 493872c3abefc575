"""Changes a model in many ways, signs it anew, loads it and scores with it: one line on stdout for each case.

A process of its own, since a case may end it: by a segmentation fault, for want of memory, or never.
"""

from __future__ import annotations

import faulthandler
import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.file_source import FileSource
from trustwatch.models.model_directory import manifest_digest
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.pipeline.replay import HistoryReplay

from ..model_history import raw_history

AGENTS = 64
"""Room of an engine, more than there are: it is made anew for each case."""
EVENTS = b"\n".join(raw_history(60, seed=3))
SPECIAL = (0, 1, -1, 2, 255, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 1e-320, 1e300, -1e300, 0.5)
NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))
OTHER_TYPES = ("<f4", "<f8", ">f8", "<i4", "<i8", "<u8", "|b1", "<c16", "<U3", "|V4", "<f2")


def write_array(model: Path, name: str, raw: bytes, array: NDArray[Any] | None) -> None:
    """Put bytes in place of an array, and into the manifest what they are."""
    (model / name).write_bytes(raw)

    def change(content: Any) -> None:
        file = content["files"][name]
        file["sha256"] = hashlib.sha256(raw).hexdigest()
        if array is not None:
            file["dtype"], file["shape"] = array.dtype.str, list(array.shape)

    change_manifest(model, change)


def change_manifest(model: Path, change: Callable[[Any], None]) -> None:
    """Change the manifest and sign it anew."""
    manifest = model / "manifest.json"
    content = json.loads(manifest.read_text())
    change(content)
    content["digest"] = manifest_digest(content)
    manifest.write_text(json.dumps(content))


def saved(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A `.npy` with a header of one's own."""
    text = header.encode("latin1").ljust(118 - len(body) % 2) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + body


# What is done to an array. Each returns the other one.


def one_value(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    flat = array.reshape(-1).copy()
    if len(flat):
        choices = SPECIAL + NO_NUMBERS if array.dtype.kind == "f" else SPECIAL
        with np.errstate(all="ignore"):
            value = np.array([dice.choice(choices)], object)
            flat[dice.randrange(len(flat))] = (
                value.astype(array.dtype)[0] if array.dtype.kind == "f" else int(value[0]) & np.iinfo(flat.dtype).max
            )
        if array.dtype.kind == "i" and dice.random() < 0.5:
            flat[dice.randrange(len(flat))] = np.iinfo(flat.dtype).min
    return flat.reshape(array.shape)


def all_values(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    other = np.empty_like(array)
    raw = dice.choice((b"\0", b"\xff", b"\x01", b"\x7f"))
    other.reshape(-1).view(np.uint8)[:] = raw[0]
    return other


def noise(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    return np.frombuffer(dice.randbytes(array.nbytes), array.dtype).reshape(array.shape).copy()


def shuffled(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    flat = array.reshape(-1).copy()
    np.random.default_rng(dice.randrange(2**31)).shuffle(flat)
    return flat.reshape(array.shape)


def shorter(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    return array[: dice.choice((0, 1, len(array) - 1))].copy() if array.ndim else array.reshape(1)


def longer(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    return np.concatenate([array] * dice.choice((2, 3))) if array.ndim else array.reshape(1, 1)


def turned(array: NDArray[Any], _dice: random.Random) -> NDArray[Any]:
    return array.T if array.ndim > 1 else array[::-1].copy() if array.ndim else array.reshape(1)


def other_type(array: NDArray[Any], dice: random.Random) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        wanted = dice.choice(OTHER_TYPES)
        return np.zeros(array.shape, wanted) if wanted[1] in "VU" else array.astype(wanted)


ARRAY_CHANGES = (one_value, one_value, one_value, all_values, noise, shuffled, shorter, longer, turned, other_type)


def change_array(model: Path, name: str, dice: random.Random) -> str:
    change = dice.choice(ARRAY_CHANGES)
    other = change(np.load(model / name), dice)
    write_array(model, name, saved(other), other)
    return f"{name} {change.__name__}"


def change_file(model: Path, name: str, dice: random.Random) -> str:
    """Put something that is no array of that size, with a digest that fits."""
    array = np.load(model / name)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.npy", bytes(1 << 20))
    kind, raw = dice.choice(
        (
            ("npz", archive.getvalue()),
            ("huge", npy(f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': (1099511627776,), }}")),
            ("deep", npy("(" * 900)),
            ("deeper", npy("{'descr': " + "[" * 60_000, version=b"\x02\x00")),
            ("minus", npy("-" * 1000 + "1")),
            ("version", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8), b"\x03\x00")),
            ("negative", npy(f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': (-1,), }}", bytes(64))),
            ("truncated", saved(array)[: dice.randrange(1, 140)]),
            ("columns", saved(np.asfortranarray(array))),
            ("empty", b""),
            ("text", b"no array"),
            ("longer", saved(array) + b"\0"),
        )
    )
    write_array(model, name, raw, None)
    if kind == "huge":
        change_manifest(model, lambda content: content["files"][name].update(shape=[1 << 40]))
    return f"{name} {kind}"


def change_place(model: Path, name: str, dice: random.Random) -> str:
    """Put something that is no file, or a file that takes no room."""
    path, kind = model / name, dice.choice(("pipe", "device", "folder", "deep", "sparse", "more"))
    if kind == "more":
        (model / "extras" / "more.npy").write_bytes(b"")
        return f"{name} more"
    if kind == "deep":
        inner = model
        for _ in range(400):
            inner = inner / "d"
        inner.mkdir(parents=True)
        return f"{name} deep"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
        change_manifest(model, lambda content: content["files"][name].update(shape=[1 << 40]))
    return f"{name} {kind}"


def change_members(model: Path, _name: str, dice: random.Random) -> str:
    """Change one member of the manifest, at any depth."""
    values: tuple[Any, ...] = (
        *(None, True, -1, 2**70, 10**400, 1e308, "", "\ud800", "x" * 100_000, [], {}, ["<f8"] * 10),
        *(0.5, "1", {"a": {"b": []}}, [[[[]]]], "../../etc/passwd", "\x1b[2J"),
    )
    told = ""

    def change(content: Any) -> None:
        nonlocal told
        inside = content
        while True:
            key = dice.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            told += f"/{key}"
            if not isinstance(inside[key], dict | list) or not inside[key] or dice.random() < 0.3:
                value = dice.choice(values)
                inside[key] = value
                told += f" {str(value)[:30]!a}"
                return
            inside = inside[key]

    change_manifest(model, change)
    return told


def change_text(model: Path, _name: str, dice: random.Random) -> str:
    """Put other text in place of the manifest."""
    manifest = model / "manifest.json"
    text = manifest.read_text()
    kind, other = dice.choice(
        (
            ("deep", "[" * 200_000),
            ("deep object", '{"a":' * 100_000),
            ("deep member", text.replace('"settings": {', '"settings": {"more": ' + "[" * 900 + "]" * 900 + ",", 1)),
            ("large", text.replace('"kind"', '"more": "' + "x" * (2 << 20) + '", "kind"', 1)),
            ("NaN", text.replace('"settings": {', '"settings": {"more": NaN,', 1)),
            ("digits", text.replace('"settings": {', '"settings": {"more": ' + "9" * 5000 + ",", 1)),
            ("truncated", text[: dice.randrange(len(text))]),
            ("bytes", "\0" * 1000),
        )
    )
    manifest.write_text(other)
    if kind == "deep member":
        change_manifest(model, lambda _content: None)
    return f"manifest {kind}"


CHANGES = (*[change_array] * 12, change_file, change_file, change_place, change_members, change_members, change_text)


def outcome_of(model: Path) -> str:
    """Load it and, if that goes, score with it: `refused` or `scored`; anything else is a fault."""
    try:
        trained = load_trained_model(model)
    except ModelError as error:
        return "refused" if len(str(error)) < 2_000 else "a message without end"
    replay = HistoryReplay(trained, EngineSettings(capacity=AGENTS))
    malformed: list[Any] = []
    for event in replay.replayed_events(FileSource(io.BytesIO(EVENTS)), lambda *letter: malformed.append(letter)):
        if not (0.0 <= event.anomaly_score <= 1.0 and 0.0 < event.p_value <= 1.0 and 0.0 <= event.risk_score <= 1.0):
            return f"impossible {event[3:6]}"
    return "scored" if not malformed else f"events refused: {malformed[0]}"


def say(text: str) -> None:
    """Have it read even if this process ends in the next moment."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Arguments: the model, a folder to work in, the first case, how many."""
    sound, work = Path(sys.argv[1]), Path(sys.argv[2])
    first, count = int(sys.argv[3]), int(sys.argv[4])
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    names = sorted(path.relative_to(sound).as_posix() for path in sound.rglob("*.npy"))
    say(f"sound: {outcome_of(sound)}\n")
    for case in range(first, first + count):
        dice = random.Random(case)
        model = work / "model"
        shutil.copytree(sound, model)
        told = dice.choice(CHANGES)(model, names[case % len(names)], dice)
        say(f"{case} {told}: ")
        try:
            found = outcome_of(model)
        except BaseException as error:
            found = f"{type(error).__name__} {str(error)[:200]}"
        say(found + "\n")
        shutil.rmtree(model)


if __name__ == "__main__":
    main()
