"""Canonical targets, and on which side of the tenant's border they lie."""

from __future__ import annotations

import pytest

from trustwatch.ingest.columns import (
    EXTERNAL_TARGET,
    INTERNAL_TARGET,
    UNKNOWN_SIDE,
    TenantDomains,
    canonical_target,
    host_of,
)
from trustwatch_client.events import Resource

DOMAINS = TenantDomains({"acme": ["Acme.example", ".acme.internal"]})


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("https://Evil.example:8443/drop?x=1", "evil.example"),
        ("eve@Evil.example", "evil.example"),
        ("spiffe://acme.example/ns/a", "acme.example"),
        ("acct-42", None),
        ("a@b", None),
        ("say hi @ b.example", None),
        ("www.Evil.example/drop?x", "www.evil.example"),
        ("WWW.evil.example:80", "www.evil.example"),
        ("wwwx.example", None),
        ("www.[broken/x", None),
        ("www", None),
        ("a www.evil.example", None),
        ("https://[broken", None),
        ("@b.example", None),
        ("http://user:pw@h.example/", "h.example"),
    ],
)
def test_host_of(name: str, host: str | None) -> None:
    """URLs and mail addresses have a host, other names have none, and a broken URL is only a name."""
    assert host_of(name) == host


@pytest.mark.parametrize(
    ("host", "side"),
    [
        ("acme.example", INTERNAL_TARGET),
        ("API.Acme.Example.", INTERNAL_TARGET),
        ("x.acme.internal", INTERNAL_TARGET),
        ("notacme.example", EXTERNAL_TARGET),
        ("acme.example.evil.test", EXTERNAL_TARGET),
    ],
)
def test_domains_include_their_subdomains(host: str, side: int) -> None:
    """A sub-domain lies inside with its parent; a name that only ends alike, or begins alike, does not."""
    assert DOMAINS.side_of("acme", host) == side


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (Resource(id="https://evil.test/a/b"), ("evil.test", EXTERNAL_TARGET)),
        (Resource(id="https://api.acme.example/a"), ("api.acme.example", INTERNAL_TARGET)),
        (Resource(id="www.evil.test/a/b"), ("www.evil.test", EXTERNAL_TARGET)),
        (Resource(id="WWW.Acme.example?q"), ("www.acme.example", INTERNAL_TARGET)),
        (Resource(id="Eve@Evil.test"), ("eve@evil.test", EXTERNAL_TARGET)),
        (Resource(id="acct-1"), ("acct-1", UNKNOWN_SIDE)),
        (Resource(id="acct-1", external=True), ("acct-1", EXTERNAL_TARGET)),
        (Resource(id="https://evil.test/a", external=False), ("evil.test", INTERNAL_TARGET)),
        (Resource(id="mail-7", target="bob@acme.example"), ("bob@acme.example", INTERNAL_TARGET)),
        (Resource(type="thing"), (None, UNKNOWN_SIDE)),
        (Resource(type="thing", external=True), (None, EXTERNAL_TARGET)),
    ],
)
def test_canonical_target(resource: Resource, expected: tuple[str | None, int]) -> None:
    """What the event says wins; a URL becomes its host; a mail address is lower-cased; other names stay themselves."""
    assert canonical_target(resource, "acme", DOMAINS) == expected
