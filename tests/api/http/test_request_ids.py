"""Each request has an id: in its answer, and in every line that it causes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from trustwatch.api.http.fast_path import REQUEST_ID_KEY, given_request_id, identify_request, request_id_of
from trustwatch.api.http.refused_callers import LineLimit


@pytest.mark.parametrize("path", ["/healthz", "/v1/agents", "/v1/agents/bot/risk", "/nowhere", "/openapi.json"])
def test_every_answer_has_the_id_of_its_request(shared: Any, path: str) -> None:
    named = shared.client.get(path, headers={**shared.auth(), "x-request-id": "req-1:a.b_c"})
    unnamed = [shared.client.get(path, headers=shared.auth()).headers["x-request-id"] for _ in range(2)]

    assert named.headers.get_list("x-request-id") == ["req-1:a.b_c"]
    assert len(set(unnamed)) == 2
    assert shared.client.get(path).headers["x-request-id"]


@pytest.mark.parametrize("given", [[b"a b"], [b"x" * 129], [b""], [b"one", b"two"], [b"\xc3\xa4"], [b"a\x1b[31m"]])
def test_what_is_no_id_is_not_repeated(given: list[bytes]) -> None:
    scope: dict[str, Any] = {"headers": [(b"x-request-id", value) for value in given]}

    assert given_request_id(scope) == b""
    assert request_id_of(scope, lambda: "new") == "new"


def test_lines_of_a_request_have_its_id_and_shared_answers_stay_as_they_are() -> None:
    shared_headers = [(b"content-type", b"text/plain")]
    sent: dict[str, Any] = {}

    async def one(name: bytes) -> None:
        async def send(message: Any) -> None:
            sent[name.decode()] = message

        scope: dict[str, Any] = {"headers": [(b"x-request-id", name)]}
        send_with_id = identify_request(scope, send, lambda: "new")
        await asyncio.sleep(0)
        structlog.get_logger().info("refused", agent=name.decode())
        await send_with_id({"type": "http.response.start", "status": 200, "headers": shared_headers})
        assert scope[REQUEST_ID_KEY] == name.decode()

    async def both() -> None:
        await asyncio.gather(asyncio.create_task(one(b"first")), asyncio.create_task(one(b"second")))

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        asyncio.run(both())

    assert {(line["agent"], line["request_id"]) for line in lines} == {("first", "first"), ("second", "second")}
    assert dict(sent["first"]["headers"])[b"x-request-id"] == b"first"
    assert shared_headers == [(b"content-type", b"text/plain")]


def test_a_flood_of_lines_is_bounded_and_counted() -> None:
    now = 0.0
    lines: list[Any] = []
    limit = LineLimit(lambda: now, per_s=2)
    for _ in range(5):
        limit.write(lambda event, **members: lines.append((event, members)), "refused", agent="a")
    now = 1.5
    for _ in range(2):
        limit.write(lambda event, **members: lines.append((event, members)), "refused", agent="a")

    assert [members.get("left_out") for _, members in lines] == [None, None, 3, None]
    assert {event for event, _ in lines} == {"refused"}
