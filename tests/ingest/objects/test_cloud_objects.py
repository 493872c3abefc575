"""Objects in a cloud that fails: bounded in time, told what to do, and nothing of what was secret."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from socket import create_server

import pytest

from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.objects.object_store import ObjectStore, open_object_store

SECRET = "wJalrXUtnFEMI"
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class AnsweringServer(http.server.ThreadingHTTPServer):
    """Gives each request the same answer, or the ones of a list first."""

    daemon_threads = True
    status, code = 200, ""
    first: list[tuple[int, str]]
    requests: list[str]


class AnsweringHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AnsweringServer

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.command)
        status, code = self.server.first.pop(0) if self.server.first else (self.server.status, self.server.code)
        body = ERROR.format(code, SECRET).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, so that no test asks the machines of a cloud."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringServer]:
    with AnsweringServer(("127.0.0.1", 0), AnsweringHandler) as running:
        running.first, running.requests = [], []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        yield running
        running.shutdown()


def opened(call_s: float = 10.0) -> ObjectStore:
    return open_object_store("s3://bucket/prefix", setting="`state.objects`", call_s=call_s)


def every_call(store: ObjectStore) -> list[str]:
    """What each call says, none of which may succeed, or be taken for an object that is not there."""
    said = []
    for call in (
        lambda: store.put("a/b", b"1"),
        lambda: store.get("a/b"),
        lambda: store.list_names("a/"),
        lambda: store.delete(["a/b", "a/c"]),
    ):
        with pytest.raises(Unavailable) as failed:
            call()
        assert failed.value.__cause__ is None and failed.value.__suppress_context__
        said.append(str(failed.value))
    assert not [text for text in said if SECRET in text or "AKIA" in text]
    return said


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "SignatureDoesNotMatch"), (401, ""), (404, "NoSuchBucket"), (400, "InvalidBucketName")],
)
def test_a_refusal_is_named_and_never_repeated(server: AnsweringServer, status: int, code: str) -> None:
    """By status and code; the rest of the answer may hold anything. A bucket that is not there is no missing object."""
    server.status, server.code = status, code

    for text in every_call(opened()):
        assert "s3://bucket/prefix: " in text
        assert f"it answers {status}" in text and text.endswith(code)


def test_a_bucket_of_another_region_is_named(server: AnsweringServer) -> None:
    server.status = 301

    assert all("is AWS_REGION the one of the bucket?" in text for text in every_call(opened()))


def test_check_says_what_to_mend(server: AnsweringServer) -> None:
    """Settings where the store refuses; where it fails, it is to be tried again."""
    server.status, server.code = 403, "InvalidAccessKeyId"
    with pytest.raises(ConfigError, match="403 Forbidden, InvalidAccessKeyId; see to the bucket, and to keys"):
        opened().check()

    server.status, server.code = 503, "SlowDown"
    with pytest.raises(Unavailable, match="503 Service Unavailable, SlowDown; is the endpoint"):
        opened().check()


def test_a_short_failure_is_tried_again(server: AnsweringServer) -> None:
    server.first = [(500, "InternalError"), (503, "SlowDown")]

    opened().put("a", b"1")

    assert server.requests == ["PUT"] * 3


def test_a_failure_that_stays_ends_in_time(server: AnsweringServer) -> None:
    """With a few tries, and what the server said last."""
    server.status, server.code = 503, "SlowDown"
    began = time.monotonic()

    with pytest.raises(Unavailable, match="it answers 503 Service Unavailable, SlowDown"):
        opened().put("a", b"1")

    assert time.monotonic() - began < 15
    assert 1 < len(server.requests) <= 4


def test_a_server_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing; each call ends, and the next one begins anew."""
    with closing(create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store, began = opened(call_s=0.5), time.monotonic()

        said = every_call(store)

        assert time.monotonic() - began < 20  # of 2 s, on a machine with other work
        assert all("was not answered within 0.5 s" in text for text in said)
        with pytest.raises(Unavailable, match="is the endpoint of the environment right"):
            store.check()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "the connection was refused"),
        ("AWS_ENDPOINT_URL", "no url", "is it a URL"),
        ("AWS_ALLOW_HTTP", "false", "plain http is used with AWS_ALLOW_HTTP=true"),
    ],
)
def test_a_wrong_environment_is_named(
    server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    for text in every_call(opened()):
        assert said in text
    assert server.requests == []


def test_no_keys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machines of a cloud do not give any either."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")

    with pytest.raises(Unavailable, match=r"the environment has no keys \(AWS_ACCESS_KEY_ID\)"):
        opened().check()


def test_an_account_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(ConfigError, match=r"`state\.objects` can not be used: the environment names no account"):
        open_object_store("az://container", setting="`state.objects`")
