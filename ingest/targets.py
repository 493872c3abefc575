"""Canonical targets: where an action goes (host, mail address, account), and whether that lies outside the tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from trustwatch_client.events import Resource

EXTERNAL_TARGET, INTERNAL_TARGET, UNKNOWN_SIDE = 1, 0, -1


class TenantDomains:
    """The domains that lie inside each tenant; a sub-domain counts with its parent."""

    def __init__(self, domains: Mapping[str, Sequence[str]]) -> None:
        self._domains = {tenant: tuple(d.lower().lstrip(".") for d in names) for tenant, names in domains.items()}

    def side_of(self, tenant: str, host: str) -> int:
        """EXTERNAL or INTERNAL, or UNKNOWN for a tenant that has configured no domains."""
        domains = self._domains.get(tenant)
        if not domains:
            return UNKNOWN_SIDE
        host = host.lower().rstrip(".")
        inside = any(host == domain or host.endswith("." + domain) for domain in domains)
        return INTERNAL_TARGET if inside else EXTERNAL_TARGET


def is_url(name: str) -> bool:
    """True if a name is a URL, with its scheme or without."""
    return "://" in name or name[:4].lower() == "www."


def host_of(name: str) -> str | None:
    """Host of a URL or a mail address, lower case; None for every other name.

    What begins with `www.` is a URL whose scheme was left out, as agents often write it.

    >>> host_of("https://Evil.example:8443/drop?x=1"), host_of("eve@evil.example"), host_of("acct-42")
    ('evil.example', 'evil.example', None)
    >>> host_of("www.evil.example/drop")
    'www.evil.example'
    """
    if is_url(name):
        try:
            return urlsplit(name if "://" in name else "//" + name).hostname
        except ValueError:
            return None
    user, at, domain = name.rpartition("@")
    if at and user and "." in domain and " " not in name:
        return domain.lower()
    return None


def canonical_target(resource: Resource, tenant: str, domains: TenantDomains) -> tuple[str | None, int]:
    """Destination of an action and whether it is external.

    What the event says wins. Else a URL is reduced to its host (paths differ between calls, destinations do not), a
    mail address is lower-cased, and any other id stands for itself with an unknown side.
    """
    name = resource.target if resource.target else resource.id
    if not name:
        return None, UNKNOWN_SIDE if resource.external is None else int(resource.external)
    host = host_of(name)
    if host is None:
        return name, UNKNOWN_SIDE if resource.external is None else int(resource.external)
    side = domains.side_of(tenant, host) if resource.external is None else int(resource.external)
    return (host if is_url(name) else name.lower()), side
