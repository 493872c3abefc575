"""A real server of S3 that dies, hangs, and knows neither the bucket nor the keys. What works: its contract."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trustwatch.ingest.errors import ConfigError, ObjectMissing, Unavailable
from trustwatch.ingest.objects.object_store import ObjectStore, open_object_store

from ..support.peer_fixtures import BUCKET

if TYPE_CHECKING:
    from scripts.service_stack import S3Gateway

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


def opened(bucket: str = BUCKET, call_s: float = 10.0) -> ObjectStore:
    return open_object_store(f"s3://{bucket}/states", setting="`state.objects`", call_s=call_s)


def assert_unavailable(store: ObjectStore) -> None:
    for call in (
        lambda: store.put("a", b"2"),
        lambda: store.get("a"),
        lambda: store.get("missing"),
        lambda: store.list_names(""),
        lambda: store.delete(["b"]),
    ):
        with pytest.raises(Unavailable):
            call()


def test_a_server_that_is_killed_and_comes_back(s3_gateway: S3Gateway) -> None:
    """The same store goes on; what was acknowledged is there."""
    store = opened()
    store.put("a", b"1")

    s3_gateway.kill()
    assert_unavailable(store)
    with pytest.raises(Unavailable, match="the connection was refused; is the endpoint"):
        store.check()
    s3_gateway.start()

    assert store.get("a") == b"1"
    assert store.list_names("") == ["a"]
    store.check()


def test_a_server_that_hangs(s3_gateway: S3Gateway) -> None:
    """Every call ends in time, and works when it wakes."""
    store = opened(call_s=1.0)
    store.put("a", b"1")

    s3_gateway.pause()
    wait_until_stopped(s3_gateway.status()["pid"])
    began = time.monotonic()
    assert_unavailable(store)
    assert time.monotonic() - began < 30  # of 5 s, on a machine with other work
    s3_gateway.start()

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # what it got before it hung is carried out now: nobody knows in which order
        try:
            store.put("a", b"3")
            break
        except Unavailable:
            continue
    assert store.get("a") in (b"2", b"3")


def wait_until_stopped(pid: int) -> None:
    """Each thread of a process stops for itself."""
    deadline = time.monotonic() + 30
    while any("(stopped)" not in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_dies_while_it_is_written_to(s3_gateway: S3Gateway) -> None:
    """An object is one of those that were put, whole, however often it dies; and the last one acknowledged or later."""
    store, failed, last = opened(), 0, b""
    store.put("a", bytes([0]) * MIB)
    ended = threading.Event()

    def kill() -> None:
        try:
            for down_s in (0.3, 0.3, 4.0, 0.3, 0.3):  # the tries of one call outlast the short ones
                time.sleep(0.3)
                s3_gateway.kill()
                time.sleep(down_s)
                s3_gateway.start()
        finally:
            ended.set()

    pool = ThreadPoolExecutor(1)
    killing = pool.submit(kill)
    number = acknowledged = 0
    while not ended.is_set():
        number = (number + 1) % 250
        try:
            store.put("a", bytes([number]) * MIB)
            acknowledged = number
        except Unavailable:
            failed += 1
    killing.result()
    pool.shutdown()

    last = store.get("a")
    assert failed > 0
    assert last == last[:1] * MIB
    assert (last[0] - acknowledged) % 250 <= (number - acknowledged) % 250
    assert store.list_names("") == ["a"]


def test_a_bucket_that_does_not_exist(s3_gateway: S3Gateway) -> None:
    """It is said at start; and later no object counts as missing."""
    store = opened("no-such-bucket")

    with pytest.raises(
        ConfigError, match="s3://no-such-bucket/states: put: it answers 404 Not Found, NoSuchBucket; see"
    ):
        store.check()
    assert_unavailable(store)
    with pytest.raises(ObjectMissing):
        opened().get("missing")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys(s3_gateway: S3Gateway, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither key is shown; and no object counts as missing."""
    opened().put("a", b"1")
    monkeypatch.setenv(name, "wrong-and-secret")
    store = opened()

    with pytest.raises(ConfigError, match="it answers 40") as refused:
        store.check()
    assert_unavailable(store)

    shown = str(refused.value)
    assert "see to the bucket, and to keys and endpoint in the environment" in shown
    assert not [secret for secret in ("wrong-and", s3_gateway.access_key, s3_gateway.secret_key) if secret in shown]
