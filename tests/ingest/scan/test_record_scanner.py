"""What the scanner accepts, msgspec accepts, and the columns are equal to the bit: member by member."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest import compilation
from trustwatch.ingest.columns import TARGET, ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.scan.raw_encoder import RawEncoder
from trustwatch.ingest.scan.scan_schema import SCHEMA_MEMBERS
from trustwatch_client.events import MAX_EVENT_BYTES

from ...support.feature_histories import SALT, event
from ...support.scan_records import DOMAINS, WHOLE, ScannerAndReference, changed, compact, text_with

TIMES = """
2026-03-02T08:00:14Z 2026-03-02T08:00:14z 2026-03-02t08:00:14Z 2026-03-02T08:00:14 2026-03-02T08:00:14+00:00
2026-03-02T08:00:14-00:00 2026-03-02T08:00:14+05:30 2026-03-02T08:00:14-23:59 2026-03-02T08:00:14+24:00
2026-03-02T08:00:14+05:60 2026-03-02T08:00:14+0530 2026-03-02T08:00:14+05 2026-03-02T08:00:60Z
2026-03-02T23:59:60Z 2026-12-31T23:59:60Z 2026-03-02T24:00:00Z 2026-03-02T08:60:14Z 2026-02-29T08:00:14Z
2024-02-29T08:00:14Z 1900-02-29T08:00:14Z 2100-02-29T08:00:14Z 2000-02-29T08:00:14Z 2026-13-01T08:00:14Z
2026-00-01T08:00:14Z 2026-01-00T08:00:14Z 2026-04-31T08:00:14Z 1969-12-31T23:59:59Z 1970-01-01T00:00:00Z
1970-01-01T00:00:00+05:30 1969-12-31T23:00:00-02:00 9000-12-31T23:59:59Z 9001-01-01T00:00:00Z
2250-12-31T23:59:59.999999Z 2251-01-01T00:00:00Z 0001-01-01T00:00:00Z 2026-03-02T08:00:14.Z
2026-03-02T08:00:14,5Z 2026-3-2T08:00:14Z +2026-03-02T08:00:14Z 2026-03-02T08:00Z 2026-03-02 1767225600
2026-03-02T08:00:14.5ZZ 2026-03-02T08:00:14.000999999Z
"""
TARGETS = """
https://Evil.example:8443/drop?x=1 https://evil.example https://evil.example?x https://evil.example#x
http://[::1]:80/x http://[::1/x http://]/ ://x/y 1a://evil.example/y HTTPS://Evil.example/y file:///etc/passwd
https:///x https://u:p@evil.example/x mailto:eve@evil.example Eve@Evil.Example @evil.example eve@ eve@localhost
a@b@acme.example x://a@b.example/c@d.example https://sub.acme.example/y https://internal.test./y
a:b://c.example/d https://evil.example/x://y spiffe://acme.example/ns/x acct:42 a:/b a://
https://evil.example:port/x https://evil.example:/x https://evil.example:80?x https://a_b.example/
eve.1@evil-2.example eve@evil.example. eve@. a@b@c.example https://-/x https://./x s3+http://bucket.example/key
x@y.z://q www.evil.example WwW.Evil.example:8443/drop?x=1 www. www wwwx.example www.acme.example/y
www.bob@acme.example bob@www.acme.example www.evil.example/x://y //www.evil.example/x www.[evil/x
www.evil.example#x
"""
ADDRESSES = """
198.51.100.7 198.51.100.07 198.51.100.256 198.51.100 198.51.100.7.1 0.0.0.0 255.255.255.255 1.2.3.4/24 1..3.4
1.2.3. 1.2.3.1234 2001:db8:1:2::7 ::ffff:1.2.3.4 fe80::1%eth0 :: pod-7
"""
BROKEN = b"""
{} [] null "x" 1 { } {" {"a {"a" {"a": {"a":1 {"a":1, {"a":1,} {}{}
"""
NUMBERS = """
0 -0 -0.0 0.0 00 01 -1 1. .5 1.0 0.1 0.3 1e5 1E5 1e-5 1e400 -1e400 1e309 123456789012345 1234567890123456
999999999999999 0.99999999999999 0.999999999999999 9.87654321098765 99999999999999999999999999 1.7976931348e308
9007199254740993 18446744073709551616 +1 0x1 1_0 Infinity 1.5.5 0.5 3 64500 4294967296 12a 1,2 0.000000000001
"""


@pytest.fixture(scope="module")
def pair() -> ScannerAndReference:
    return ScannerAndReference()


def test_scan_reads_every_member_and_the_whole_schema(pair: ScannerAndReference) -> None:
    """A record with every member of the schema is read by the kernels, blanks between everything included."""
    assert pair.is_scanned(compact(WHOLE))
    assert pair.is_scanned(json.dumps(WHOLE, ensure_ascii=False, indent=3).encode().replace(b"\n", b" \t\r\n") + b" \n")
    named = {f"{outer}." if outer else "": members for outer, members in _paths(WHOLE)}
    assert {member.path for member in SCHEMA_MEMBERS} == {
        prefix + name for prefix, members in named.items() for name in members
    } - {"vendor"}


def _paths(value: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    yield "", list(value)
    for name, inner in value.items():
        if isinstance(inner, dict) and name not in ("attributes", "vendor"):
            yield name, list(inner)
        elif isinstance(inner, list) and isinstance(inner[-1], dict):
            yield name, [member for member in inner[-1] if member != "vendor"]


@pytest.mark.parametrize("path", [member.path for member in SCHEMA_MEMBERS])
def test_scan_treats_null_and_missing_members_as_the_reference(pair: ScannerAndReference, path: str) -> None:
    """Each member null, missing, empty, twice, and of every wrong type."""
    values = [None, ..., "", [], {}, 0, 1, -1, 1.5, True, False, [""], ["", ""], [None], [1], {"id": "x"}, "x"]
    pair.check([compact(changed(path, value)) for value in values])

    name = path.rpartition(".")[2]
    once = compact(WHOLE)
    first = once.index(f'"{name}":'.encode())
    twice = [once[:first] + f'"{name}":{text},'.encode() + once[first:] for text in ("null", '"x"', "{}", "1")]
    pair.check(twice)


@pytest.mark.parametrize("path", ["id", "action", "tenant", "agent.id", "delegation", "scopes.granted", "resource.id"])
@pytest.mark.parametrize(
    "text",
    [
        r'"\u0000"',
        r'"\ud800"',
        r'"\ud83d\ude00"',
        r'"a\"b"',
        r'"a\\"',
        r'"\x"',
        '"\x00"',
        '"\x1f"',
        '"\x7f"',
        '"é"',
        '"\U0001f600"',
        '"\ud800"',
        '"\ufeff"',
        '"a\nb"',
        "'a'",
        '"a',
        '"' + "é" * 2048 + '"',
        '"' + "é" * 2049 + '"',
        '"' + "x" * 2048 + '"',
        '"' + "x" * 2049 + '"',
        "nul",
        "nulll",
        "NaN",
        r'"\u00fc"',
    ],
)
def test_scan_reads_odd_texts_as_the_reference(pair: ScannerAndReference, path: str, text: str) -> None:
    """Escapes, surrogates, control and other characters, and texts at the limit of their length."""
    wrapped = f"[{text}]" if path in ("delegation", "scopes.granted") else text

    pair.check([text_with(path, wrapped), compact(WHOLE), text_with("attributes", f'{{"k":{text}}}')])


def test_scan_knows_utf8(pair: ScannerAndReference) -> None:
    """All two-byte and many longer sequences, right and wrong, are text to the kernels exactly where they are to us."""
    sequences = [bytes(sequence) for sequence in _sequences()]
    before, behind = text_with("task", '"@@@@"').split(b"@@@@")

    for start in range(0, len(sequences), 2000):
        pair.check([before + sequence + behind for sequence in sequences[start : start + 2000]])


def _sequences() -> Iterator[tuple[int, ...]]:
    edges = (0x22, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for first in range(0x80, 0x100):
        yield (first,)
        for second in range(0x40, 0x100, 3):
            yield first, second
        if first >= 0xE0:
            for second in edges:
                yield from ((first, second, third) for third in edges)
                yield from ((first, second, third, 0x80) for third in edges)
                yield first, second, 0x80, 0xC0


@pytest.mark.parametrize("path", ["bytes_in", "count", "status", "client.asn", "credential.token_lifetime_s"])
def test_scan_reads_numbers_as_the_reference(pair: ScannerAndReference, path: str) -> None:
    """Every form of a number: signs, zeros, exponents, fractions, digits without end."""
    texts = NUMBERS.split()

    pair.check([text_with(path, text) for text in texts])
    pair.check([text_with("attributes", f'{{"k":[{text}]}}') for text in texts])


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e15), st.integers(0, 15))
def test_scan_rounds_decimals_as_the_reference(pair: ScannerAndReference, value: float, decimals: int) -> None:
    pair.check([text_with("bytes_out", f"{value:.{decimals}f}"), text_with("duration_ms", repr(value))])


ARGUMENT = {"name": "to", "origin": "tool", "hash": "39e505e56acc", "from": 1, "from_action": "read"}


@pytest.mark.parametrize(
    "items",
    [
        "[]",
        "[ ]",
        "[{}]",
        "[[]]",
        "[null]",
        '["x"]',
        "[{},]",
        "{}",
        json.dumps([ARGUMENT] * 256),
        json.dumps([ARGUMENT] * 257),
        json.dumps([ARGUMENT, 1]),
        json.dumps([ARGUMENT])[:-1] + ",]",
        json.dumps([ARGUMENT])[:-2] + ',"name":"twice"}]',
        json.dumps([ARGUMENT])[:-2] + ',"x":{"y":[1,{}]}}]',
        json.dumps([ARGUMENT])[:-2] + ",}]",
        *(
            json.dumps([ARGUMENT | {name: value}])
            for name, values in {
                "name": ["", "n" * 256, "n" * 257, "é" * 256, "é" * 257, None],
                "origin": ["prompt", "system", "unseen", "Tool", "", None],
                "hash": [
                    "0" * 7,
                    "0" * 8,
                    "f" * 64,
                    "f" * 65,
                    "A" * 8,
                    "g" * 8,
                    "0" * 8 + chr(10),
                    "erased~01KAV9FT00QX",
                    "erased~",
                    "erased~x",
                    None,
                ],
                "from": [0, 999_999_999, 1_000_000_000, -1, 1.0, 1.5, 10**20, True, "1"],
                "from_action": ["", "a" * 256, "a" * 257],
                "part": [True, False, None, 0, "true"],
                "untrusted": [True, False, None, 0, "true"],
            }.items()
            for value in values
        ),
        *(
            json.dumps([ARGUMENT, {kept: value for kept, value in ARGUMENT.items() if kept != left_out}, ARGUMENT])
            for left_out in ARGUMENT
        ),
    ],
)
def test_scan_reads_arguments_as_the_reference(pair: ScannerAndReference, items: str) -> None:
    """Origins of arguments, right and wrong: both readers take a record, or both refuse it."""
    pair.check([text_with("arguments", items), text_with("arguments", f" {items} "), compact(WHOLE)])


def test_scan_reads_plain_arguments_itself(pair: ScannerAndReference) -> None:
    """No record with origins falls back to the slow reader, up to the bounds."""
    unhashed = {"name": "to", "origin": "tool", "from": 1, "from_action": "read"}
    for items in (
        [],
        [ARGUMENT],
        [unhashed, ARGUMENT],
        [ARGUMENT | {"from": 999_999_999, "part": True, "untrusted": True}] * 256,
    ):
        assert pair.is_scanned(compact(changed("arguments", items)))


@pytest.mark.parametrize(
    "time",
    [
        *TIMES.split(),
        "2026-03-02 08:00:14Z",
        "",
        "2026-03-02T08:00:14Z ",
        *(f"2026-03-02T08:00:14.{'123456789123'[:digits]}Z" for digits in range(1, 13)),
        *(f"2240-03-02T08:00:14.{'9' * digits}-11:59" for digits in range(1, 13)),
    ],
)
def test_scan_reads_times_as_the_reference(pair: ScannerAndReference, time: str) -> None:
    """Every form of RFC 3339 and of what is nearly RFC 3339."""
    pair.check([compact(changed("time", time))])


@settings(max_examples=500, deadline=None)
@given(
    st.datetimes(datetime(1969, 12, 30), datetime(2260, 1, 1)),  # noqa: DTZ001
    st.integers(-1439, 1439),
    st.integers(0, 6),
)
def test_scan_reads_any_time_to_the_same_millisecond(
    pair: ScannerAndReference, at: datetime, minutes: int, digits: int
) -> None:
    """The reference goes through floating point; its last microsecond is part of the answer."""
    fraction = f".{at.microsecond:06d}"[: digits + 1] if digits else ""
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"

    pair.check([compact(changed("time", f"{at:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"))])


@pytest.mark.parametrize(
    "name",
    [
        *TARGETS.split(),
        "eve @evil.example",
        " https://evil.example/x",
        "https://é.example/x",
        "https://evil\u2100.example/x",
        "e\x7fve@evil.example",
        "https:/ /x",
        " www.evil.example",
        "www.é.example/x",
        "www evil.example",
    ],
)
@pytest.mark.parametrize("external", [None, True, False])
@pytest.mark.parametrize("tenant", ["acme", "other", None])
def test_scan_finds_targets_as_the_reference(
    pair: ScannerAndReference, name: str, external: bool | None, tenant: str | None
) -> None:
    """URLs and mail addresses in every form, as target and as id; other paths of a host that is known come next."""
    made = [
        {**changed("resource", resource | {"external": external, "type": kind}), "tenant": tenant}
        for kind in (None, "", "url")
        for resource in (
            {"target": name},
            {"id": name},
            {"target": "", "id": name},
            {"target": name, "id": "x"},
            {"target": f"{name}/other?q#f"},
            {"id": f"{name}x"},
        )
    ]

    pair.check([compact(value) for value in made])


@pytest.mark.parametrize("text", [r'"\u0077ww.evil.example/x"', r'"www\u002eevil.example"', r'"www.evil.example\/x"'])
def test_scan_finds_targets_behind_escapes(pair: ScannerAndReference, text: str) -> None:
    """A URL without scheme that is written with escapes has the host that the reference finds."""
    found = pair.check([text_with("resource.target", text), compact(changed("resource.target", "www.evil.example"))])

    assert found.columns.names[0, TARGET] == found.columns.names[1, TARGET] != 0


@pytest.mark.parametrize(
    "ip",
    [*ADDRESSES.split(), " 1.2.3.4", "1.2.3.4 ", "", "1.2.3.٤"],
)
@pytest.mark.parametrize("asn", [None, 0, 64500])
def test_scan_finds_networks_as_the_reference(pair: ScannerAndReference, ip: str, asn: int | None) -> None:
    """Addresses of both versions, and what is nearly one."""
    pair.check([compact(changed("client", {"ip": ip, "asn": asn})), compact(changed("client", {"ip": ip}))])


def test_scan_finds_scopes_and_capabilities_as_the_reference(pair: ScannerAndReference) -> None:
    """Sets, orders, repetitions; lists that would give the same bytes if their texts were only put together."""
    lists = [None, [], [""], ["", ""], ["a"], ["a", "b"], ["b", "a"], ["ab"], ["a", "b", "a"], ["a b"], ["z", "é"]]
    lists += [["x"] * 256, ["x"] * 257]
    made = [changed("scopes", {"requested": asked, "granted": given}) for asked in lists for given in lists]
    lists += [["*"], ["b*", "?"], ["[ab]"], ["tools/*"], ["b*"], ["a*b"], ["[a"]]
    made += [
        changed("agent.capabilities", value) | {"action": action, "type": kind}
        for value in lists
        for kind in ("api.call", "token.request")
        for action in ("a", "b", "tools/list", "[a")
    ]
    made += [changed("delegation", value) for value in lists]

    for start in range(0, len(made), 64):
        pair.check([compact(value) for value in made[start : start + 64]])


@pytest.mark.parametrize("method", [None, "", "none", "spiffe", "self_signed_tls_client_auth", "tls_client_auth", "x"])
@pytest.mark.parametrize("thumbprint", [None, "", "None", "x"])
def test_scan_composes_credentials_as_the_reference(
    pair: ScannerAndReference, method: str | None, thumbprint: str | None
) -> None:
    pair.check([compact(changed("credential", {"method": method, "thumbprint": thumbprint}))])


def test_scan_tells_parts_of_an_agent_apart(pair: ScannerAndReference) -> None:
    """Agents whose parts give one text when they are put together are different ones."""
    parts = [("a", "b", "c"), ("ab", "", "c"), ("", "ab", "c"), ("", "", "abc"), ("a", "", "bc"), ("é", "", "x")]
    made = [event(tenant=tenant, issuer=issuer) for tenant, issuer, _ in parts]
    raws = [
        compact(changed("agent", {"id": name, "issuer": issuer}) | {"tenant": tenant}) for tenant, issuer, name in parts
    ]

    found = pair.check(raws)

    assert len(set(found.columns.names[:, 0].tolist())) == len(made)


@pytest.mark.parametrize(
    "raw",
    [*BROKEN.split(), b"", b" ", b"\xef\xbb\xbf{}", b"\0", b"{}\0"],
)
def test_scan_leaves_what_is_no_event_to_the_reference(pair: ScannerAndReference, raw: bytes) -> None:
    pair.check([raw, compact(WHOLE) + raw, compact(WHOLE) + b"\0" + raw, raw + compact(WHOLE)])


def test_scan_leaves_deep_and_large_records_to_the_reference(pair: ScannerAndReference) -> None:
    """Nesting beyond what the kernel keeps, and records beyond the limit."""
    for depth in (1, 59, 60, 61, 64, 65, 500):
        for opened, closed in (("[", "]"), ('{"k":', "}")):
            inner = opened * depth + "1" + closed * depth
            pair.check([text_with("vendor", inner), text_with("attributes", f'{{"k":{inner}}}')])
            pair.check([text_with("vendor", opened * depth + "1" + closed * (depth - 1))])
            pair.check([text_with("vendor", "[" * depth + "}" * depth)])
    room = MAX_EVENT_BYTES - len(compact(changed("vendor", "")))
    raws = [compact(changed("vendor", "x" * (room + more))) for more in (-1, 0, 1)]

    assert [pair.is_scanned(raw) for raw in raws] == [True, True, False]


def test_scan_decodes_nothing_of_plain_rows(pair: ScannerAndReference) -> None:
    """Events of rows that the kernels read are made when somebody asks, and only those."""
    raw = compact(WHOLE)
    pair.check([raw])

    events = pair.raw.encode([raw, raw, b"{}", raw]).columns.events

    assert len(events) == 3
    assert events._decoded == {}  # type: ignore[attr-defined]
    assert events[-1] == decode_event(raw) and events[-1] is events[2]
    assert list(events._decoded) == [2]  # type: ignore[attr-defined]
    assert list(events[1:]) == [decode_event(raw)] * 2
    with pytest.raises(IndexError):
        events[3]


def test_scan_forgets_when_its_memory_is_full() -> None:
    """More agents than there are places: nothing is lost but time."""
    encoder = ScannerAndReference()
    for start in range(0, 4000, 200):
        encoder.check([compact(changed("agent.id", f"agent-{n}")) for n in range(start, start + 200)])

    assert 0 < encoder.raw._remembered <= 1024


def test_records_are_read_without_the_kernel_until_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference does, and with the kernel from then on."""
    compiled: list[object] = []
    monkeypatch.setattr(compilation, "is_kept", lambda *kernels: bool(compiled))
    pair = ScannerAndReference()
    pair.raw = RawEncoder(ColumnEncoder(SALT, DOMAINS), places=2048, compiled_elsewhere=True)
    payloads = [compact(WHOLE), b"{", compact(changed("agent.id", "agent-2"))]

    pair.check(payloads)
    assert pair.scanned == 0
    compiled.append(True)
    pair.check(payloads)
    assert pair.scanned == 2


def test_scan_may_serve_the_lenient_decoder(pair: ScannerAndReference) -> None:
    """What the kernels accept, the decoder of history files reads as the strict one does."""
    raw = compact(WHOLE)
    foreign = raw.replace(b'"denied"', b'"AccessDenied"')
    lenient = RawEncoder(ColumnEncoder(SALT, DOMAINS), lambda payload: decode_history_event(payload)[0])

    found = lenient.encode([raw, foreign, raw])

    assert decode_history_event(raw) == (decode_event(raw), False)
    assert found.refused == [] and found.columns.codes[1].tolist() == pair.check([raw]).columns.codes[0].tolist()
    assert msgspec.json.encode(found.columns.events[1]) == msgspec.json.encode(decode_history_event(foreign)[0])


@pytest.mark.parametrize("kind", ["approval", "tool.call"])
@pytest.mark.parametrize("outcome", ["success", "denied", "error"])
def test_scan_knows_what_people_said_of_an_agent(kind: str, outcome: str) -> None:
    pair = ScannerAndReference()
    made = {**WHOLE, "type": kind, "outcome": outcome, "error": "recorded_by_trustwatch"}

    pair.check([compact(made)])

    assert pair.scanned == 1
