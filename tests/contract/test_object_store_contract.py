"""What every store of objects promises. A new one adds its way of being opened to `store` and nothing else."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from trustwatch.ingest.errors import ObjectMissing, Unavailable
from trustwatch.ingest.objects.cloud_objects import CloudObjects
from trustwatch.ingest.objects.object_store import ObjectStore, open_object_store

from ..support.peer_fixtures import BUCKET

KIB, MIB = 1024, 1024 * 1024
LARGE = 64 * MIB
MANY, PAGES = 100, 3_000
"""Names to list; of S3 three pages."""
ROUNDS = 30


@pytest.fixture(params=["folder", "memory", "local", pytest.param("s3", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A store of each kind, empty. `local` is the one of obstore that says of what is missing that it is."""
    match request.param:
        case "folder":
            return open_object_store(str(tmp_path / "objects"))
        case "memory":
            return CloudObjects(MemoryStore(), "memory", 60.0)
        case "local":
            return CloudObjects(LocalStore(tmp_path / "objects", mkdir=True), "local", 60.0)
        case _:
            request.getfixturevalue("s3_gateway")
            return open_object_store(f"s3://{BUCKET}/a/prefix", call_s=60.0)


def test_what_was_put_is_got_and_replaced(store: ObjectStore) -> None:
    """Bytes as they are, none as well as all; and another name is another object."""
    contents = {"a/b/c-1.bin": bytes(range(256)), "a/b/c_2": b"", "plain": b"\x00" * 3}
    for name in contents:
        store.put(name, b"what was there before, longer than what follows it" * 10)
    for name, content in contents.items():
        store.put(name, content)

    assert {name: store.get(name) for name in contents} == contents
    assert all(type(store.get(name)) is bytes for name in contents)


def test_what_is_missing_is_said_so(store: ObjectStore) -> None:
    """In a folder that is not there, in one that is, beside it; and after it was deleted."""
    store.put("a/one", b"1")
    store.put("a/two", b"2")
    store.delete(["a/two"])

    for name in ("b/one", "a/three", "one", "a/two"):
        with pytest.raises(ObjectMissing, match=name):
            store.get(name)


def test_names_are_listed_by_how_they_begin(store: ObjectStore) -> None:
    """In order, whole, as text; what begins otherwise is left out."""
    names = ["a/1/x", "a/1/y/z", "a/10/x", "a/2", "ab", "b.1/x"]
    for name in reversed(names):
        store.put(name, name.encode())

    assert store.list_names("") == names
    assert store.list_names("a") == names[:5]
    assert store.list_names("a/") == names[:4]
    assert store.list_names("a/1") == names[:3]
    assert store.list_names("a/1/") == names[:2]
    assert store.list_names("a/1/y/z") == ["a/1/y/z"]
    assert store.list_names("b.") == ["b.1/x"]
    assert store.list_names("c/") == store.list_names("a/2/") == []


def test_deleting_takes_what_it_is_told(store: ObjectStore) -> None:
    """What is not there is no error, in whatever order it comes; nothing else goes."""
    for name in ("a/1", "a/2", "a/3", "b/1"):
        store.put(name, b"x")

    store.delete(["a/0", "a/1", "no/such", "a/3", "b/1"])
    store.delete(["a/1"])
    store.delete([])

    assert store.list_names("") == ["a/2"]
    store.put("b/1", b"again")
    assert store.get("b/1") == b"again"


@pytest.mark.parametrize(
    "name",
    (
        *("", "/a", "a/", "a//b", "..", "a/../b", "a..b", ".", ".hidden", "a/.tmp", "A", "a b", "ä", "a\\b", "a\n"),
        *("a%2f", "a" * 201, "/".join(["a" * 180] * 4)),
    ),
)
def test_other_names_are_refused(store: ObjectStore, name: str) -> None:
    """None is ever a path out of the store, a hidden file, or something that a server writes otherwise."""
    calls = (lambda: store.put(name, b""), lambda: store.get(name), lambda: store.delete(["a", name]))
    for call in calls:
        with pytest.raises(ValueError, match="is no name of an object"):
            call()


@pytest.mark.parametrize("prefix", ["/", "../", "a/../b", ".a", "A", "a//"])
def test_other_prefixes_are_refused(store: ObjectStore, prefix: str) -> None:
    """Nothing outside of the store is listed."""
    with pytest.raises(ValueError, match="begins so"):
        store.list_names(prefix)


def test_a_large_object_comes_back_whole(store: ObjectStore) -> None:
    content = hashlib.shake_128(b"large").digest(MIB) * (LARGE // MIB)

    store.put("large", content)

    assert store.get("large") == content


def test_many_names_are_listed_and_deleted(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    """More than a server tells at once."""
    count = PAGES if "s3" in request.node.name else MANY
    names = [f"many/{number:05}" for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))

    assert store.list_names("many/") == names
    store.delete(names[1:])
    assert store.list_names("many/") == names[:1]


def test_a_reader_beside_writers_sees_all_or_nothing(store: ObjectStore) -> None:
    """Of two writers of one name one wins whole, at each moment; whoever reads or lists finds one of theirs."""
    contents = {letter: letter.encode() * 256 * KIB for letter in "abc"}
    store.put("shared/name", contents["a"])
    done = threading.Event()

    def write(letter: str) -> None:
        for _ in range(ROUNDS):
            store.put("shared/name", contents[letter])

    def read() -> set[tuple[bytes, int]]:
        seen = set()
        while not done.is_set():
            content = store.get("shared/name")
            seen.add((content[:1], len(content)))
            assert content == content[:1] * len(content)
            assert store.list_names("shared/") == ["shared/name"]
        return seen

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write, letter) for letter in "bc"]:
            writer.result()
        done.set()

    seen = reader.result()
    assert seen <= {(letter.encode(), 256 * KIB) for letter in "abc"}
    assert store.get("shared/name") in (contents["b"], contents["c"])


def test_an_object_beside_others_that_go(store: ObjectStore) -> None:
    """Folders that others empty are there for whoever writes."""

    def come_and_go(number: int) -> None:
        for round_ in range(ROUNDS):
            name = f"deep/folder/{number}-{round_}"
            put_until_done(store, name)
            assert store.get(name) == name.encode()
            store.delete([name])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(come_and_go, number) for number in range(4)]:
            done.result()

    assert store.list_names("") == []


def put_until_done(store: ObjectStore, name: str) -> None:
    """Put again what was not taken: VersityGW answers 409 where it removes the folder of a bucket in that moment."""
    for left in reversed(range(10)):
        try:
            store.put(name, name.encode())
        except Unavailable:
            if not left:
                raise
        else:
            return


def test_a_store_that_works_passes_its_check(store: ObjectStore) -> None:
    """It leaves nothing, and what is there as it was."""
    store.put("mine", b"1")

    store.check()
    store.check()

    assert store.list_names("") == ["mine"]
    assert store.get("mine") == b"1"


def test_what_is_finished_is_not_counted_as_unfinished(store: ObjectStore) -> None:
    """Nor removed with what crashes left."""
    store.put("a/b", b"1")
    store.remove_unfinished(0.0)

    assert store.count_unfinished(0.0) == 0
    assert store.get("a/b") == b"1"
