"""Attacks on the way in, by whoever has no token: bodies, slow senders, readers that read nothing, foreign names."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from trustwatch.api.console import sign_in
from trustwatch.api.console.pages import PAGE_MODULES
from trustwatch.api.decisions import service as decisions_service
from trustwatch.api.http import connection_guard
from trustwatch.api.http.connection_guard import MAX_HEAD_BYTES, MAX_LINGER_BYTES
from trustwatch.api.settings.service_settings import ConsoleSettings, ListenSettings

PATIENCE_S = 10.0
MIB = 1024 * 1024
FOREIGN = {"host": "rebound.example"}
BODY_ROUTES = (
    "/v1/risk/query",
    "/v1/agents/bot/release",
    "/v1/agents/bot/pin",
    "/v1/feedback",
    "/v1/privacy/erasures",
    "/v1/events",
    "/v1/traces",
    "/v1/nowhere",
)


def bound(monkeypatch: pytest.MonkeyPatch, **bounds: float) -> None:
    """Give connections other bounds, for a service that starts later."""
    for name, value in bounds.items():
        monkeypatch.setattr(connection_guard, name, value)


@contextmanager
def connected(site: Any, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which *sent* was sent."""
    address = site.socket.getsockname()
    with closing(socket.create_connection(address, timeout=PATIENCE_S)) as connection:
        connection.sendall(sent)
        yield connection


def received(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def head(method: str, path: str, *more: str, host: str = "127.0.0.1") -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *more]
    return "\r\n".join([*lines, "", ""]).encode()


def closed_count(site: Any, cause: str) -> int:
    return int(site.connections.closed[cause])


def wait_until(check: Callable[[], bool]) -> None:
    """Wait until *check* holds."""
    end = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("path", BODY_ROUTES)
@pytest.mark.parametrize("length", ["Content-Length: 8000000", "Transfer-Encoding: chunked"])
def test_no_byte_of_a_body_is_waited_for_without_a_token(shared: Any, path: str, length: str) -> None:
    with connected(shared, head("POST", path, "Content-Type: application/json", length)) as connection:
        answer = connection.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 401"), answer


CONSOLE_FORMS = [
    route.path
    for router in (sign_in.router, *(page.router for page in PAGE_MODULES))
    for route in router.routes
    if isinstance(route, APIRoute) and "POST" in route.methods
]


def test_no_byte_of_a_form_is_waited_for_without_a_session(new_site: Any) -> None:
    """The console knows its people by their session, and asks for it first: each form of it."""
    site = new_site(console=ConsoleSettings(enabled=True, development_login=True))
    form = ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 60000")

    for path in CONSOLE_FORMS:
        with connected(site, head("POST", "/console" + path, *form)) as connection:
            answer = connection.recv(65_536)
        assert answer.split()[1] in (b"303", b"401"), (path, answer)

    assert len(CONSOLE_FORMS) >= 10


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/agents/bot/release", 65_537, 413),
        ("/v1/agents/bot/release", 60_000, 422),
        ("/v1/risk/query", 1024 * 1024 + 1, 413),
        ("/v1/risk/query", 1024 * 1024, 200),
    ],
)
def test_bodies_are_bounded_by_route(shared: Any, path: str, size: int, status: int) -> None:
    """64 KiB, and 1 MiB for a batch of questions; whether the length is declared or not."""
    ends = (b'{"agents":[{"agent_id":"bot"}]', b"}") if "risk" in path else (b'{"note":"', b'"}')
    filler = b" " if "risk" in path else b"x"
    body = ends[0] + filler * (size - len(ends[0] + ends[1])) + ends[1]
    headers = {**shared.auth(), "content-type": "application/json"}

    declared = shared.client.post(path, content=body, headers=headers)
    chunked = shared.client.post(path, content=iter([body[:1000], body[1000:]]), headers=headers)

    assert (declared.status_code, chunked.status_code) == (status, status)


def test_a_body_behind_its_answer_is_not_read_for_ever(shared: Any) -> None:
    """A little is thrown away, so that the client sees the answer; then the connection ends."""
    before = closed_count(shared, "unread_body")

    with connected(shared, head("POST", "/v1/risk/query", "Content-Length: 100000000")) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401")
        with pytest.raises(ConnectionError):
            for _ in range(100 * MAX_LINGER_BYTES // 65_536):
                connection.sendall(b"x" * 65_536)
                time.sleep(0.001)

    assert closed_count(shared, "unread_body") == before + 1


def test_a_small_body_behind_its_answer_leaves_the_connection_open(shared: Any) -> None:
    """A client whose token has ended asks again on the same connection."""
    with connected(shared, head("POST", "/v1/feedback", "Content-Length: 10")) as connection:
        first = connection.recv(65_536)
        connection.sendall(b"0123456789" + head("GET", "/healthz"))
        second = connection.recv(65_536)

    assert (first.split()[1], second.split()[1]) == (b"401", b"200")


@pytest.fixture
def hasty(new_site: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with little patience."""
    bound(monkeypatch, HEAD_TIMEOUT_S=0.3, BODY_TIMEOUT_S=0.3, SEND_TIMEOUT_S=0.3)
    monkeypatch.setattr(decisions_service, "MAX_STREAMS_PER_CALLER", 2)
    return new_site()


@pytest.mark.parametrize(
    ("sent", "cause", "status"),
    [
        (b"GET /healthz HTT", "head_timeout", b"408"),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", "head_timeout", b"408"),
    ],
)
def test_heads_that_never_end_are_closed(hasty: Any, sent: bytes, cause: str, status: bytes) -> None:
    with connected(hasty, sent) as connection:
        answer = received(connection)

    assert answer.split()[1] == status
    assert closed_count(hasty, cause) == 1


def test_heads_that_drip_are_closed(hasty: Any) -> None:
    with connected(hasty, b"GET / HTTP/1.1\r\n") as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(b"X-A: 1\r\n")
            time.sleep(0.01)

    assert closed_count(hasty, "head_timeout") == 1


def test_bodies_that_drip_are_closed(hasty: Any) -> None:
    token = f"Authorization: {hasty.auth()['authorization']}"
    request = head("POST", "/v1/risk/query", token, "Content-Type: application/json", "Content-Length: 1000")

    with connected(hasty, request) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(b" ")
            time.sleep(0.01)

    assert closed_count(hasty, "body_timeout") == 1


def test_connections_that_begin_no_request_are_closed(new_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones, and those that send line ends after an answer, which begin no request and stop uvicorn's timer."""
    bound(monkeypatch, IDLE_S=0.2, HEAD_TIMEOUT_S=0.2)
    site = new_site()

    site.client.close()
    with connected(site) as silent, connected(site, head("GET", "/healthz")) as ending:
        assert ending.recv(65_536).startswith(b"HTTP/1.1 200")
        ending.sendall(b"\r\n")
        assert (received(silent), received(ending)) == (b"", b"")

    assert closed_count(site, "idle_timeout") == 2


def test_clients_that_read_no_answer_are_closed(new_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is sent may end within a head, which must not be what ends the connection.
    bound(monkeypatch, HEAD_TIMEOUT_S=30.0, BODY_TIMEOUT_S=0.3, SEND_TIMEOUT_S=0.3)
    hasty = new_site()
    request = head("GET", "/openapi.json")

    with connected(hasty) as connection:
        connection.settimeout(0.05)
        try:
            for _ in range(2000):
                connection.sendall(request)
        except (TimeoutError, ConnectionError):
            pass
        wait_until(lambda: closed_count(hasty, "send_timeout") == 1)

    assert closed_count(hasty, "send_timeout") == 1


def test_requests_that_come_together_are_no_long_head(shared: Any) -> None:
    """Many whole requests and a part of another one, in one piece: each is answered, none is refused."""
    before = closed_count(shared, "head_too_large")
    number = 2 * MAX_HEAD_BYTES // len(head("GET", "/healthz"))

    with connected(shared, head("GET", "/healthz") * number + b"GET /healthz HTTP/1.1\r\n") as connection:
        connection.sendall(b"Host: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answers = received(connection)

    assert answers.count(b"HTTP/1.1 200") == number + 1
    assert closed_count(shared, "head_too_large") == before


def test_heads_without_end_are_refused(shared: Any) -> None:
    before = closed_count(shared, "head_too_large")

    with connected(shared, b"GET / HTTP/1.1\r\n") as connection:
        try:
            for _ in range(2 * MAX_HEAD_BYTES // 1000):
                connection.sendall(b"X-A: " + b"a" * 993 + b"\r\n")
        except ConnectionError:
            pass
        answer = received(connection)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    assert closed_count(shared, "head_too_large") == before + 1


def test_what_comes_behind_a_body_is_no_header(shared: Any) -> None:
    """A proxy that replaces a header may hand on a trailer of that name: neither token, certificate nor host is one."""
    token = shared.auth("gateway")["authorization"]
    asked = head("POST", "/v1/events", "Content-Type: application/json", "Transfer-Encoding: chunked")
    for trailer in (f"Authorization: {token}", "X-Forwarded-For: 127.0.0.1"):
        with connected(shared, asked + f"2\r\n[]\r\n0\r\n{trailer}\r\n\r\n".encode()) as connection:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401"), trailer
    known = head("POST", "/v1/events", f"Authorization: {token}", "Content-Type: application/json")
    known = known.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    with connected(shared, known + f"2\r\n[]\r\n0\r\nAuthorization: {token}\r\n\r\n".encode()) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize("begun", [b"0\r\n", b"0\r\nx: ", b"1;x="], ids=["trailers", "a trailer", "an extension"])
def test_trailers_without_end_are_refused(shared: Any, begun: bytes) -> None:
    """Of a known caller, too: a parser keeps them where no bound of bodies counts them."""
    before = closed_count(shared, "trailers_too_large")
    token = shared.auth("gateway")["authorization"]
    asked = head("POST", "/v1/events", f"Authorization: {token}", "Content-Type: application/json")
    asked = asked.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n")
    with connected(shared, asked + begun) as connection:
        more = b"a" * 993 if begun[-1:] != b"\n" else b"x: " + b"a" * 988 + b"\r\n"
        try:
            for _ in range(8 * MAX_HEAD_BYTES // 1000):
                connection.sendall(more)
        except ConnectionError:
            pass
        assert b" 202 " not in received(connection)
    assert closed_count(shared, "trailers_too_large") == before + 1


def test_there_is_room_for_who_asks_while_others_only_wait(new_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have sent half a request for longest go first; a gateway's connection stays."""
    bound(monkeypatch, MAX_CONNECTIONS=16)
    site = new_site()
    with httpx2.Client(base_url=site.url) as gateway:
        assert gateway.get("/healthz").status_code == 200
        slow = [socket.create_connection(site.socket.getsockname(), timeout=PATIENCE_S) for _ in range(60)]
        for connection in slow:
            connection.sendall(b"GET /")
        wait_until(lambda: closed_count(site, "max_connections") >= 40)
        assert gateway.get("/healthz").status_code == 200
        with httpx2.Client(base_url=site.url) as newcomer:
            assert newcomer.get("/healthz").status_code == 200
        for connection in slow:
            connection.close()

    assert len(site.connections) <= 16


def test_bytes_of_unknown_clients_are_bounded_over_all_connections(
    new_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many heads, none of them too large by itself: who holds some for longest goes."""
    bound(monkeypatch, MAX_UNAUTHENTICATED_BYTES=MIB)
    site = new_site()
    most = 0
    with httpx2.Client(base_url=site.url) as client:
        slow = [socket.create_connection(site.socket.getsockname(), timeout=PATIENCE_S) for _ in range(60)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000)
            most = max(most, site.connections.held_bytes)
        wait_until(lambda: closed_count(site, "unauthenticated_bytes") >= 10)
        assert client.get("/healthz").status_code == 200
        for connection in slow:
            connection.close()

    assert most <= MIB
    wait_until(lambda: site.connections.held_bytes == 0)


def test_bodies_of_known_senders_are_not_counted(new_site: Any, event: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, MAX_UNAUTHENTICATED_BYTES=MIB)
    site = new_site()

    answer = site.send([event(number) for number in range(10_000)])

    assert (answer.status_code, closed_count(site, "unauthenticated_bytes")) == (202, 0)
    assert site.connections.held_bytes == 0


def test_streams_of_one_caller_are_bounded(hasty: Any) -> None:
    """Another caller still gets one, and so does the first once one of its own has ended."""

    def open_stream(client: str) -> httpx2.Response:
        request = hasty.client.build_request("GET", "/v1/decisions/stream", headers=hasty.auth(client))
        answer = hasty.client.send(request, stream=True)
        assert isinstance(answer, httpx2.Response)
        return answer

    first, second, third, other = (open_stream(name) for name in ("gateway", "gateway", "gateway", "two"))
    third.read()
    first.close()
    wait_until(lambda: len(hasty.status.subscribers) == 2)
    fourth = open_stream("gateway")

    assert [answer.status_code for answer in (second, third, other, fourth)] == [200, 429, 200, 200]
    assert (third.json()["code"], third.headers["retry-after"]) == ("too_many_streams", "5")
    for answer in (second, other, fourth):
        answer.close()


@pytest.mark.parametrize(
    "path", ["/metrics", "/openapi.json", "/v1/schema/audit-event", "/v1/agents/", "/v1/agents", "/nowhere"]
)
@pytest.mark.parametrize("authorization", [None, "Basic eDp5", "Bearer x", "bearer e30.e30.e30", "DPoP x", "Bearer"])
def test_requests_without_a_token_must_name_the_service(shared: Any, path: str, authorization: str | None) -> None:
    """A page whose name was made to lead here reads nothing: its requests name it, and it can write any header."""
    token = {} if authorization is None else {"authorization": authorization}

    answer = shared.client.get(path, headers={**FOREIGN, **token})

    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:8420", 200),
        ("[::1]:8420", 200),
        ("127.0.0.1:1", 200),
        ("trust.example", 200),
        ("trust.internal:8420", 200),
        ("trust.example.evil", 421),
        ("evil@localhost", 421),
        ("192.0.2.1", 421),
        ("", 400),
        ("a\r\nHost: localhost", 400),
    ],
)
def test_names_by_which_the_service_may_be_called(new_site: Any, host: str, status: int) -> None:
    """Its own, those of this machine, and those of the settings; exactly one."""
    site = new_site(listen=ListenSettings(public_url="https://trust.example", allowed_hosts=("trust.internal",)))

    with connected(site, head("GET", "/metrics", "Connection: close", host=host)) as connection:
        answer = received(connection)

    assert int(answer.split()[1]) == status


@pytest.mark.parametrize("path", ["/console/", "/v1/risk/query", "/v1/agents/bot/risk"])
def test_a_token_that_is_not_valid_opens_nothing_under_another_name(shared: Any, path: str) -> None:
    """Neither a page nor a body; what is answered before asks for a valid token in any case."""
    method = "POST" if path == "/v1/risk/query" else "GET"

    answer = shared.client.request(method, path, headers={**FOREIGN, "authorization": "Bearer x"})

    assert answer.status_code == (401 if path == "/v1/agents/bot/risk" else 421)


@pytest.mark.parametrize("path", ["/v1/agents", "/v1/agents/bot/risk", "/openapi.json"])
def test_a_valid_token_may_come_by_any_name(shared: Any, path: str) -> None:
    assert shared.client.get(path, headers={**FOREIGN, **shared.auth()}).status_code in (200, 404)


def test_where_all_addresses_are_listened_on_each_may_be_named(new_site: Any) -> None:
    site = new_site(listen=ListenSettings(host="0.0.0.0"))

    assert site.client.get("/metrics", headers={"host": "192.0.2.1"}).status_code == 200
    assert site.client.get("/metrics", headers=FOREIGN).status_code == 421


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_use_any_name(shared: Any, path: str) -> None:
    assert shared.client.get(path, headers=FOREIGN).status_code in (200, 503)


def test_a_redirect_names_no_host(shared: Any) -> None:
    """Not the one of the request either; a caller with a token may use any name."""
    answer = shared.client.get("/v1/decisions/?limit=1", headers={**FOREIGN, **shared.auth()})

    assert (answer.status_code, answer.headers["location"]) == (307, "/v1/decisions?limit=1")


def test_a_redirect_leads_to_no_other_host(shared: Any) -> None:
    answer = shared.client.get("//evil.example/v1/decisions/", headers=shared.auth())

    assert not answer.headers.get("location", "/").startswith("//")


@pytest.mark.parametrize("path", ["/v1/agents/bot/risk", "/v1/agents", "/metrics", "/v1/events"])
def test_two_authorization_headers_are_refused(shared: Any, path: str) -> None:
    """None of them counts, whichever is right; also where a request from this machine needs none."""
    token = shared.auth()["authorization"]
    pairs = [[("authorization", token), ("authorization", other)] for other in (token, "Bearer x", "Basic eDp5")]
    method = "POST" if path == "/v1/events" else "GET"

    answers = [shared.client.request(method, path, headers=pair) for pair in pairs]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(400, "invalid_request")] * 3


@pytest.mark.parametrize("credential", ["Bearer", "Bearer ", "bearer  ", ""])
@pytest.mark.parametrize("path", ["/v1/agents/bot/risk", "/metrics"])
def test_an_empty_bearer_is_no_request_without_token(shared: Any, path: str, credential: str) -> None:
    """It is malformed, also where a request from this machine needs none."""
    with connected(shared, head("GET", path, f"Authorization: {credential}", "Connection: close")) as connection:
        answer = received(connection)

    assert answer.split()[1] == b"400"


def test_what_was_closed_is_counted_in_metrics(hasty: Any) -> None:
    with connected(hasty, b"GET /") as connection:
        received(connection)

    lines = hasty.client.get("/metrics").text.splitlines()

    assert 'trustwatch_connections_closed_total{cause="head_timeout"} 1.0' in lines
    assert 'trustwatch_connections_closed_total{cause="max_connections"} 0.0' in lines


def test_requests_behind_each_other_are_all_answered(shared: Any) -> None:
    with connected(shared, head("GET", "/healthz") * 50 + head("GET", "/healthz", "Connection: close")) as connection:
        answers = received(connection)

    assert answers.count(b"HTTP/1.1 200") == 51


def test_many_threads_of_slow_senders_leave_others_alone(new_site: Any) -> None:
    """The check of the issue in small: bodies of megabytes without token, while somebody asks."""
    site = new_site()
    stop = threading.Event()

    def send_slowly() -> None:
        while not stop.is_set():
            try:
                with connected(site, head("POST", "/v1/risk/query", "Content-Length: 8000000")) as connection:
                    connection.sendall(b'{"agents":[' + b" " * 1_000_000)
            except OSError:
                pass

    senders = [threading.Thread(target=send_slowly) for _ in range(5)]
    for sender in senders:
        sender.start()
    try:
        statuses = {site.get("/v1/agents/bot/risk").status_code for _ in range(50)}
    finally:
        stop.set()
        for sender in senders:
            sender.join()

    assert statuses == {200}
    assert site.connections.held_bytes < 1_000_000


def test_who_sends_no_more_gets_the_answer(new_site: Any) -> None:
    """One that is a head alone, too, which waits for a body that never comes."""
    site = new_site()
    for _ in range(20):
        with connected(site, b"HEAD /v1/agents/a/risk HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
            connection.shutdown(socket.SHUT_WR)
            assert received(connection).startswith(b"HTTP/1.1 405 ")
