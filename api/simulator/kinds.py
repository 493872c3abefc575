"""The kinds of resources of the enterprise, and the short form in which the role tables write a step."""

from __future__ import annotations

from .grammar import Kind, Step

ACCOUNT = Kind("acct", "payments", 30, 0.004)
PAYEE = Kind("payee", "payments", 40, 0.008, external=True)
INVOICE = Kind("inv", "erp", 120, 0.12)
VENDOR = Kind("billing", "mail", 25, 0.01, "mail", True)
TICKET = Kind("tkt", "desk", 60, 0.15)
CUSTOMER = Kind("customer", "mail", 60, 0.04, "mail", True)
ARTICLE = Kind("kb", "wiki", 40, 0.003)
REPO = Kind("repo", "git", 12, 0.003)
PULL = Kind("pr", "git", 40, 0.15)
TABLE = Kind("tbl", "warehouse", 25, 0.004)
REPORT = Kind("rpt", "bi", 20, 0.02)
CALENDAR = Kind("cal", "calendar", 20, 0.005)
GUEST = Kind("guest", "mail", 30, 0.03, "mail", True)
SERVICE = Kind("svc", "deploy", 14, 0.004)
CLUSTER = Kind("cluster", "deploy", 4, 0.0005)
VAULT = Kind("vault", "vault", 6, 0.001)
PAGE = Kind("page", "egress", 60, 0.02, "host", True)
INDEX = Kind("vec", "search", 8, 0.001)
EMPLOYEE = Kind("emp", "hr", 60, 0.008)
CANDIDATE = Kind("candidate", "mail", 30, 0.05, "mail", True)
PLAN = Kind("plan", "orchestrator", 10, 0.004)
ALERT = Kind("alert", "siem", 60, 0.15)
HOST = Kind("host", "siem", 80, 0.008)
SKU = Kind("sku", "shop", 80, 0.004)
ORDER = Kind("order", "shop", 60, 0.15)
SUPPLIER = Kind("supplier", "mail", 15, 0.01, "mail", True)
VOLUME = Kind("volume", "storage", 20, 0.002)
BUCKET = Kind("bucket", "storage", 6, 0.001)


def step(action: str, effect: str, kind: Kind, scope: str, **more: object) -> Step:
    """A step in one line; `more` as in `Step`."""
    return Step(action=action, effect=effect, kind=kind, scope=scope, **more)  # type: ignore[arg-type]
