"""The gate with a real JWKS server: caching, rotation, slow issuers, floods."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.http.auth.bearer_tokens import TokenCache, TokenVerifier, presented_token
from trustwatch.api.http.auth.jwks import JwksCache
from trustwatch.api.http.auth.token_verification import BadAuthorization, InvalidToken, MissingToken, UnknownKey
from trustwatch.api.settings.access_settings import IssuerSettings, VerificationSettings


def run(world: Any, scene: Callable[[], Awaitable[None]]) -> None:
    """Start the keys of *world*, play *scene*, and close. A busy machine may take long for the first fetch."""

    async def play() -> None:
        await world.jwks.start(wait_s=30.0)
        try:
            await scene()
        finally:
            await world.jwks.close()

    asyncio.run(play())


async def settled(world: Any) -> None:
    """Wait for the fetch that runs, if one does."""
    running = world.jwks.refresh_soon("https://as.example")
    if running is not None:
        await running


def test_a_token_becomes_its_caller(world: Any, es: Any, rs: Any, ed: Any) -> None:
    """Keys come from the issuer's server; the caller is bound as the settings say."""
    world.server.publish(es, rs, ed)

    async def scene() -> None:
        for key in (es, rs, ed):
            caller = world.verifier.verify_now(key.token())
            assert (caller.name, caller.client_id, caller.tenants) == ("gateway", "gateway-1", {"acme-corp"})
        assert world.server.requests == 1

    run(world, scene)


def test_a_client_without_an_entry_speaks_for_nobody(world: Any, es: Any) -> None:
    world.server.publish(es)

    async def scene() -> None:
        caller = world.verifier.verify_now(es.token(client_id="stranger"))
        assert (caller.client_id, caller.name, caller.tenants) == ("stranger", "", frozenset())

    run(world, scene)


def test_refuses_an_issuer_that_is_not_configured(world: Any, es: Any) -> None:
    """A perfectly signed token of another issuer is refused, and nothing is fetched for it."""
    world.server.publish(es)

    async def scene() -> None:
        with pytest.raises(InvalidToken, match="issuer"):
            world.verifier.verify_now(es.token(iss="https://evil.example"))
        assert world.server.requests == 1

    run(world, scene)


def test_a_remembered_token_still_expires(world: Any, es: Any) -> None:
    """A hit gives the same caller without a new check, and ends with `exp` plus leeway all the same."""
    world.server.publish(es)
    token = es.token()

    async def scene() -> None:
        first = world.verifier.verify_now(token)
        world.clock.now += 329
        assert world.verifier.verify_now(token) is first
        world.clock.now += 1
        with pytest.raises(InvalidToken, match="expired"):
            world.verifier.verify_now(token)
        assert len(world.verifier.cache) == 0

    run(world, scene)


def test_the_cache_is_bounded_and_garbage_pushes_out_garbage_alone(new_world: Any, es: Any) -> None:
    """A flood of refused tokens leaves verified ones remembered; both sides keep to their size."""
    world = new_world(CACHED_TOKENS=4, REFUSED_TOKENS=8)
    world.server.publish(es)

    async def scene() -> None:
        kept = world.verifier.verify_now(token := es.token())
        for number in range(50):
            with pytest.raises(InvalidToken):
                world.verifier.verify_now(b"garbage.%d.x" % number)
        assert world.verifier.verify_now(token) is kept
        assert (len(world.verifier.cache), world.verifier.cache.refusals) == (1, 8)
        for number in range(6):
            world.verifier.verify_now(es.token(jti=str(number)))
        assert len(world.verifier.cache) == 4

    run(world, scene)


def test_rotation_is_followed_without_a_refused_request(world: Any, es: Any, new_key: Any) -> None:
    """The async way waits for the new key; the old key, no longer published, ends with its remembered tokens."""
    world.server.publish(es)
    fresh = new_key("ES256", "es-2")
    old, new = es.token(), fresh.token()

    async def scene() -> None:
        world.verifier.verify_now(old)
        world.server.publish(fresh)
        world.clock.now += 60
        assert world.verifier.verify_now(old), "still remembered, the change is not known yet"
        assert (await world.verifier.verify(new)).name == "gateway"
        with pytest.raises(UnknownKey):
            world.verifier.verify_now(old)

    run(world, scene)


def test_the_sync_way_refuses_now_and_asks_for_the_key(world: Any, es: Any, new_key: Any) -> None:
    """An unknown key is refused at once, a fetch runs in the background, and the next request is answered."""
    world.server.publish(es)
    fresh = new_key("ES256", "es-2")

    async def scene() -> None:
        world.server.publish(es, fresh)
        world.clock.now += 60
        with pytest.raises(UnknownKey):
            world.verifier.verify_now(fresh.token())
        await settled(world)
        assert world.verifier.verify_now(fresh.token()).name == "gateway"
        assert world.server.requests == 2

    run(world, scene)


def test_a_flood_of_key_ids_makes_one_fetch(world: Any, es: Any) -> None:
    """500 tokens with random key ids, sync and async, cost one fetch per `REFRESH_MIN_S`, and no memory."""
    world.server.publish(es)

    async def scene() -> None:
        world.clock.now += 60
        for number in range(400):
            with pytest.raises(UnknownKey):
                world.verifier.verify_now(es.token({"kid": f"random-{number}"}))
        waits = [world.verifier.verify(es.token({"kid": f"more-{number}"})) for number in range(100)]
        refused = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(error) for error in refused} == {UnknownKey}
        assert world.server.requests == 2
        for later, requests in ((9.9, 2), (0.1, 3), (9.9, 3)):
            world.clock.now += later
            with pytest.raises(UnknownKey):
                await world.verifier.verify(es.token({"kid": f"later-{later}"}))
            assert world.server.requests == requests
        assert (len(world.verifier.cache), world.verifier.cache.refusals) == (0, 0)

    run(world, scene)


def test_a_hanging_issuer_delays_nobody_whose_key_is_known(new_world: Any, es: Any) -> None:
    """While the issuer hangs, known keys answer without yielding; an unknown key waits its bound and no longer."""
    world = new_world(UNKNOWN_KEY_WAIT_S=0.05)
    world.server.publish(es)

    async def scene() -> None:
        world.clock.now += 60
        world.server.hang = threading.Event()
        waiting = asyncio.create_task(world.verifier.verify(es.token({"kid": "unknown"})))
        await asyncio.sleep(0)
        for number in range(20):
            assert world.verifier.verify_now(es.token(jti=str(number))).name == "gateway"
        assert not waiting.done()
        with pytest.raises(UnknownKey):
            await asyncio.wait_for(waiting, timeout=5)
        assert (await world.verifier.verify(es.token())).name == "gateway"
        fetch = world.jwks.refresh_soon("https://as.example")
        assert fetch is not None and not fetch.done(), "it hangs all the while"

    run(world, scene)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, "answered 302"),
        ({"body": b"<html>busy</html>"}, "not a JWK set"),
        ({"body": b'{"keys": [' + b" " * 600_000 + b"]}"}, "more than"),
    ],
)
def test_keys_outlive_a_failing_issuer_up_to_a_bound(
    change: dict[str, Any], error: str, new_world: Any, es: Any
) -> None:
    """Errors, redirects, pages and floods leave the keys as they are; after `KEYS_MAX_AGE_S` they are gone."""
    world = new_world(KEYS_MAX_AGE_S=5000.0)
    world.server.publish(es)

    async def scene() -> None:
        remembered = es.token(exp=int(world.clock.now) + 9000)
        world.verifier.verify_now(remembered)
        for name, value in change.items():
            setattr(world.server, name, value)
        world.clock.now += 4999
        await world.jwks.refresh_soon("https://as.example")
        (status,) = world.jwks.status()
        assert error in status.last_error
        assert (status.keys, world.server.requests) == (1, 2)
        assert world.verifier.verify_now(es.token(exp=int(world.clock.now) + 9)).name == "gateway"
        world.clock.now += 1
        for token in (remembered, es.token(exp=int(world.clock.now) + 9)):
            with pytest.raises(UnknownKey):
                world.verifier.verify_now(token)
        assert world.jwks.status()[0].keys == 0

    run(world, scene)


def test_an_emptied_key_set_is_the_issuers_word(world: Any, es: Any) -> None:
    """An issuer that withdraws every key is believed at the next fetch."""
    world.server.publish(es)

    async def scene() -> None:
        world.verifier.verify_now(token := es.token())
        world.server.publish()
        world.clock.now += 60
        await world.jwks.refresh_soon("https://as.example")
        with pytest.raises(UnknownKey):
            world.verifier.verify_now(token)

    run(world, scene)


def test_a_clock_that_ran_ahead_keeps_no_withdrawn_key(new_world: Any, es: Any, new_key: Any) -> None:
    """After it is set back, keys are fetched as before: a withdrawn one went on working until time caught up."""
    world = new_world(REFRESH_S=1.0, REFRESH_MIN_S=0.1, KEYS_MAX_AGE_S=5000.0)
    world.server.publish(es)
    arrived = asyncio.Event()

    def set_clock(by_s: float) -> None:
        world.clock.now += by_s
        world.ahead += by_s

    async def scene() -> None:
        set_clock(7200.0)
        world.clock.now += 2.0
        await world.jwks.refresh_soon("https://as.example")
        set_clock(-7200.0)
        world.server.publish(new_key("ES256", "es-2"))
        world.jwks.on_change(lambda issuer: arrived.set())
        world.clock.now += 2.0
        await asyncio.wait_for(arrived.wait(), timeout=10)
        with pytest.raises(UnknownKey):
            world.verifier.verify_now(es.token())

    run(world, scene)


@pytest.mark.parametrize(
    "member",
    [
        7,
        None,
        {"kty": "RSA", "n": 7, "e": "AQAB", "kid": "x"},
        {"kty": "EC", "crv": "P-256", "x": [1], "y": {}, "kid": "x"},
        {"kty": "EC", "crv": {}, "kid": ["x"]},
        {"kty": "EC", "crv": "P-256", "key_ops": 7, "kid": "x"},
        {"kty": "OKP", "crv": "Ed25519", "x": "!", "kid": "x"},
        {"kty": "EC", "crv": "P-256", "x": "", "y": None, "kid": 5},
    ],
)
def test_a_member_of_a_wrong_type_costs_the_other_keys_nothing(world: Any, es: Any, member: Any, capsys: Any) -> None:
    """It is skipped, logged and counted; before, the whole fetch died without a word."""
    world.server.publish(member, es)

    async def scene() -> None:
        assert world.verifier.verify_now(es.token()).name == "gateway"
        (status,) = world.jwks.status()
        assert (status.keys, status.skipped_keys, status.last_error) == (1, 1, "")

    run(world, scene)
    assert "jwks_keys_skipped" in capsys.readouterr().out


def test_unchanged_keys_keep_what_is_remembered(world: Any, es: Any) -> None:
    world.server.publish(es)

    async def scene() -> None:
        first = world.verifier.verify_now(token := es.token())
        world.clock.now += 60
        await world.jwks.refresh_soon("https://as.example")
        assert world.server.requests == 2
        assert world.verifier.verify_now(token) is first

    run(world, scene)


def test_a_dead_issuer_at_start_stops_nothing(world: Any, es: Any) -> None:
    """The service starts without keys, refuses, says so, and recovers once the issuer answers."""
    world.server.status = 503

    async def scene() -> None:
        with pytest.raises(UnknownKey):
            world.verifier.verify_now(es.token())
        assert "503" in world.jwks.status()[0].last_error
        world.server.status = 200
        world.server.publish(es)
        world.clock.now += 60
        assert (await world.verifier.verify(es.token())).name == "gateway"

    run(world, scene)


def test_keys_are_kept_fresh_in_the_background(new_world: Any, es: Any, new_key: Any) -> None:
    """Without any request, keys older than `REFRESH_S` are fetched again."""
    world = new_world(REFRESH_S=1.0, REFRESH_MIN_S=0.1, KEYS_MAX_AGE_S=5000.0)
    world.server.publish(es)
    fresh = new_key("ES256", "es-2")
    arrived = asyncio.Event()

    async def scene() -> None:
        world.jwks.on_change(lambda issuer: arrived.set())
        world.server.publish(es, fresh)
        world.clock.now += 2
        await asyncio.wait_for(arrived.wait(), timeout=10)
        assert world.verifier.verify_now(fresh.token()).name == "gateway"

    run(world, scene)


def test_keys_from_a_file(tmp_path: Path, world: Any, es: Any, new_key: Any) -> None:
    """A `jwks_file` is read like a server, and read again when a key is unknown."""
    file = tmp_path / "jwks.json"
    file.write_bytes(msgspec.json.encode({"keys": [es.jwk()]}))
    issuer = IssuerSettings(issuer="https://as.example", audiences=("https://trust.example",), jwks_file=file)
    rules = VerificationSettings()
    world.jwks = JwksCache([issuer], world.clock, world.clock)
    verifier: TokenVerifier[str] = TokenVerifier(
        [issuer], world.jwks, lambda claims: claims.subject, rules, world.clock
    )
    fresh = new_key("ES256", "es-2")

    async def scene() -> None:
        assert verifier.verify_now(es.token()) == "service-account-1"
        file.write_bytes(msgspec.json.encode({"keys": [fresh.jwk()]}))
        world.clock.now += 60
        assert await verifier.verify(fresh.token()) == "service-account-1"
        file.unlink()
        world.clock.now += 60
        await world.jwks.refresh_soon("https://as.example")
        assert "FileNotFoundError" in world.jwks.status()[0].last_error

    run(world, scene)


def test_no_log_line_holds_a_token(world: Any, es: Any, capsys: Any, caplog: Any) -> None:
    """Accepted, refused and unknown tokens leave no part of themselves in logs or errors."""
    world.server.publish(es)
    wrong = [es.token(aud="SENTINEL"), es.token({"kid": "SENTINEL"}), es.token()[:-4] + b"AAAA", b"SENTINEL"]
    wrong += [es.token(sub="SENTINEL" * 400, client_id="SENTINEL"), es.token({"typ": "SENTINEL"})]
    errors: list[str] = []

    async def scene() -> None:
        world.verifier.verify_now(es.token(sub="SENTINEL"))
        world.clock.now += 60
        for token in wrong:
            try:
                await world.verifier.verify(token)
            except InvalidToken as error:
                errors.append(f"{error!r} {error}")
                assert error.__cause__ is None

    run(world, scene)
    seen = "".join(capsys.readouterr()) + caplog.text + "".join(errors)
    assert len(errors) == len(wrong)
    assert "jwks_changed" in seen
    assert "SENTINEL" not in seen
    assert [part for token in wrong for part in token.decode().split(".") if part in seen] == []


def test_a_token_that_is_too_long_is_refused_before_any_work(world: Any) -> None:
    with pytest.raises(InvalidToken, match="too long"):
        world.verifier.verify_now(b"a" * 20_000)
    assert world.verifier.cache.refusals == 0


def test_without_an_event_loop_known_keys_work(world: Any, es: Any) -> None:
    """A command may verify with the keys it has; asking for more is simply not possible."""
    world.server.publish(es)

    async def scene() -> None:
        return None

    run(world, scene)
    assert world.verifier.verify_now(es.token()).name == "gateway"
    with pytest.raises(UnknownKey):
        world.verifier.verify_now(es.token({"kid": "other"}))


def test_refusals_are_forgotten_after_a_while_and_never_kept_when_they_may_pass() -> None:
    cache: TokenCache[str] = TokenCache(verified=2, refused=2, refused_s=5.0)
    cache.refuse(b"1", InvalidToken("wrong"), now=100.0)
    cache.refuse(b"2", InvalidToken("early", lasting=False), now=100.0)

    with pytest.raises(InvalidToken, match="wrong"):
        cache.get(b"1", 104.9)
    assert cache.get(b"1", 105.0) is None
    assert cache.get(b"2", 100.0) is None
    assert cache.refusals == 0


def test_the_least_recently_used_token_goes_first() -> None:
    cache: TokenCache[str] = TokenCache(verified=2, refused=2, refused_s=5.0)
    for name in ("a", "b"):
        cache.accept(name.encode(), name, until=10.0, issuer="i")
    assert cache.get(b"a", 0.0) == "a"
    cache.accept(b"c", "c", until=10.0, issuer="j")

    assert [cache.get(name, 0.0) for name in (b"a", b"b", b"c")] == ["a", None, "c"]
    cache.forget_issuer("i")
    assert [cache.get(name, 0.0) for name in (b"a", b"c")] == [None, "c"]


@pytest.mark.parametrize("header", [b"Bearer abc", b"bearer abc", b"BEARER   abc "])
def test_bearer_header(header: bytes) -> None:
    assert presented_token(header).token == b"abc"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, MissingToken),
        (b"", BadAuthorization),
        (b"Basic abc", MissingToken),
        (b"Bearer", BadAuthorization),
        (b"Bearer ", BadAuthorization),
        (b"Bearer a b", BadAuthorization),
    ],
)
def test_other_authorization_headers(header: bytes | None, error: type[Exception]) -> None:
    """No header and another scheme are no bearer token; an empty one, or one without exactly one token, is an error."""
    with pytest.raises(error):
        presented_token(header)
