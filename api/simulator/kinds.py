"""The kinds of resources of the enterprise, and the short form in which the role tables write a step."""

from __future__ import annotations

from .grammar import ResourceKind, TaskStep

ACCOUNT = ResourceKind("acct", "payments", 30, 0.004)
PAYEE = ResourceKind("payee", "payments", 40, 0.008, external=True)
INVOICE = ResourceKind("inv", "erp", 120, 0.12)
VENDOR = ResourceKind("billing", "mail", 25, 0.01, "mail", True)
TICKET = ResourceKind("tkt", "desk", 60, 0.15)
CUSTOMER = ResourceKind("customer", "mail", 60, 0.04, "mail", True)
ARTICLE = ResourceKind("kb", "wiki", 40, 0.003)
REPO = ResourceKind("repo", "git", 12, 0.003)
PULL = ResourceKind("pr", "git", 40, 0.15)
TABLE = ResourceKind("tbl", "warehouse", 25, 0.004)
REPORT = ResourceKind("rpt", "bi", 20, 0.02)
CALENDAR = ResourceKind("cal", "calendar", 20, 0.005)
GUEST = ResourceKind("guest", "mail", 30, 0.03, "mail", True)
SERVICE = ResourceKind("svc", "deploy", 14, 0.004)
CLUSTER = ResourceKind("cluster", "deploy", 4, 0.0005)
VAULT = ResourceKind("vault", "vault", 6, 0.001)
PAGE = ResourceKind("page", "egress", 60, 0.02, "host", True)
INDEX = ResourceKind("vec", "search", 8, 0.001)
EMPLOYEE = ResourceKind("emp", "hr", 60, 0.008)
CANDIDATE = ResourceKind("candidate", "mail", 30, 0.05, "mail", True)
PLAN = ResourceKind("plan", "orchestrator", 10, 0.004)
ALERT = ResourceKind("alert", "siem", 60, 0.15)
HOST = ResourceKind("host", "siem", 80, 0.008)
SKU = ResourceKind("sku", "shop", 80, 0.004)
ORDER = ResourceKind("order", "shop", 60, 0.15)
SUPPLIER = ResourceKind("supplier", "mail", 15, 0.01, "mail", True)
VOLUME = ResourceKind("volume", "storage", 20, 0.002)
BUCKET = ResourceKind("bucket", "storage", 6, 0.001)


def make_step(action: str, effect: str, kind: ResourceKind, scope: str, **more: object) -> TaskStep:
    """A step in one line; `more` as in `Step`."""
    return TaskStep(action=action, effect=effect, kind=kind, scope=scope, **more)  # type: ignore[arg-type]
