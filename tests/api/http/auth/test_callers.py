"""What a caller may speak for."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.http.auth.callers import (
    NO_BINDING,
    CallerDirectory,
    InsufficientScope,
    SourceBinding,
    TenantNotAllowed,
)
from trustwatch.api.http.auth.token_verification import TokenClaims
from trustwatch.api.settings.access_settings import CallerSettings, EventSourceSettings
from trustwatch.ingest.errors import SourceNotAllowed

AS = "https://as.example"
OTHER = "https://other.example"
NARROW = SourceBinding(EventSourceSettings("gw", ("acme",), (AS,), ("urn:gateway:eu-*",)))


def claims(**given: Any) -> TokenClaims:
    right = {"issuer": AS, "subject": "svc", "client_id": "gw", "scopes": frozenset({"trust.ingest"}), "exp": 0.0}
    return TokenClaims(**{**right, **given})


@pytest.mark.parametrize(
    ("claim", "path"),
    [
        (("other", AS, "urn:gateway:eu-1"), "$.tenant"),
        (("*", AS, "urn:gateway:eu-1"), "$.tenant"),
        ((None, AS, "urn:gateway:eu-1"), "$.tenant"),
        (("", AS, "urn:gateway:eu-1"), "$.tenant"),
        (("acme", OTHER, "urn:gateway:eu-1"), "$.agent.issuer"),
        (("acme", None, "urn:gateway:eu-1"), "$.agent.issuer"),
        (("acme", AS, "urn:gateway:us-1"), "$.source"),
        (("acme", AS, "x urn:gateway:eu-1"), "$.source"),
        (("acme", AS, "URN:GATEWAY:EU-1"), "$.source"),
    ],
)
def test_a_source_speaks_for_its_own_alone(claim: tuple[str | None, ...], path: str) -> None:
    """A foreign tenant, issuer or source is refused, asked twice or not, and the path says which."""
    for _ in range(2):
        with pytest.raises(SourceNotAllowed) as refused:
            NARROW.check_claims(*claim)
        assert refused.value.path == path


def test_a_source_speaks_for_what_it_is_bound_to() -> None:
    """Patterns are globs over the whole source; an event that names no source claims none."""
    NARROW.check_claims("acme", AS, "urn:gateway:eu-1")
    NARROW.check_claims("acme", AS, "urn:gateway:eu-1")
    NARROW.check_claims("acme", AS, None)


def test_star_covers_everything_and_must_be_written() -> None:
    """`*` covers missing tenants and issuers too; an empty binding covers nothing."""
    SourceBinding(EventSourceSettings("all", ("*",), ("*",), ("*",))).check_claims(None, None, "anything")
    with pytest.raises(SourceNotAllowed):
        NO_BINDING.check_claims("acme", AS, None)
    with pytest.raises(SourceNotAllowed, match="source"):
        SourceBinding(EventSourceSettings("no sources", ("*",), ("*",))).check_claims("acme", AS, "urn:x")


def test_a_default_exists_only_where_there_is_one_choice() -> None:
    """Nothing is filled in for a caller that speaks for two tenants, or for all."""
    bindings = [SourceBinding(EventSourceSettings("x", tenants, tenants)) for tenants in (["a"], ["a", "b"], ["*"], [])]

    assert [binding.default_tenant for binding in bindings] == ["a", None, None, None]
    assert [binding.default_issuer for binding in bindings] == ["a", None, None, None]


def test_what_a_binding_remembers_is_bounded() -> None:
    binding = SourceBinding(EventSourceSettings("all", ("*",), ("*",), ("*",)))
    for number in range(10_000):
        binding.check_claims(f"tenant-{number}", AS, "s")

    assert len(binding._allowed_claims) <= 4096


def test_the_most_exact_entry_wins() -> None:
    directory = CallerDirectory(
        [
            CallerSettings(name="subject", subject="svc"),
            CallerSettings(name="client", client_id="gw"),
            CallerSettings(name="both", client_id="gw", subject="svc"),
        ],
        [AS],
    )

    assert [
        directory.resolve(claims(client_id=client, subject=subject)).name
        for client, subject in (("gw", "svc"), ("gw", "x"), ("x", "svc"), ("", "svc"), ("x", "x"))
    ] == ["both", "client", "subject", "subject", ""]


def test_an_entry_belongs_to_one_issuer() -> None:
    """Another trusted issuer that hands out the same client id gets nothing by it."""
    directory = CallerDirectory(
        [CallerSettings(name="gw", client_id="gw", authenticated_by=AS, tenants=("acme",))], [AS, OTHER]
    )

    assert directory.resolve(claims()).tenants == {"acme"}
    assert directory.resolve(claims(issuer=OTHER)).tenants == frozenset()


def test_scopes_are_required_one_by_one() -> None:
    caller = CallerDirectory([], [AS]).resolve(claims(scopes=frozenset({"trust.admin"})))

    caller.require("trust.admin")
    with pytest.raises(InsufficientScope) as refused:
        caller.require("trust.score:read")
    assert refused.value.scope == "trust.score:read"


def test_a_request_is_about_a_tenant_of_the_caller() -> None:
    """The only tenant is the default; another one, or none of several, is refused."""
    one, two, every = (
        CallerDirectory([CallerSettings(name="c", client_id="gw", tenants=tenants)], [AS]).resolve(claims())
        for tenants in (("acme",), ("acme", "beta"), ("*",))
    )

    assert one.require_tenant(None) == one.require_tenant("acme") == "acme"
    assert every.require_tenant("anything") == "anything"
    for caller, tenant in ((one, "beta"), (two, None), (every, None)):
        with pytest.raises(TenantNotAllowed):
            caller.require_tenant(tenant)
