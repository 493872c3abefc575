"""Roles of simulated agents: the resources of the enterprise, and the tasks of each role in their written form."""

from __future__ import annotations

from .behaviour_model import AgentRole, AgentTask, ResourceKind, TaskStep

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
    """A step in one line; `more` as in `TaskStep`."""
    return TaskStep(action=action, effect=effect, kind=kind, scope=scope, **more)  # type: ignore[arg-type]


# Roles that work with money, customers and people.


PAYMENT_PROCESSOR = AgentRole(
    "PaymentProcessor",
    "payment-processor",
    (
        AgentTask(
            "pay-approved-invoices",
            (
                make_step("list_approved", "read", INVOICE, "invoices:read", size_out=6000),
                make_step("read_invoice", "read", INVOICE, "invoices:read", derived=True),
                make_step("check_balance", "read", ACCOUNT, "payments:read", size_out=400, type="api.call"),
                make_step("screen_payee", "read", PAYEE, "payments:read", since=1, derived=True),
                make_step("request_approval", "write", ACCOUNT, "payments:write", type="approval", skip=0.7),
                make_step(
                    "process_payment", "write", PAYEE, "payments:write", duration_ms=450, denied=0.004, derived=True
                ),
            ),
            loop=0.55,
            weight=3,
        ),
        AgentTask(
            "refund-customers",
            (
                make_step("read_transaction", "read", ACCOUNT, "payments:read", again=0.3),
                make_step("refund_transaction", "write", ACCOUNT, "payments:write", duration_ms=380),
            ),
            loop=0.3,
        ),
    ),
    activity=1.4,
    shift="extended",
    lifetime_s=300,
    method="tls_client_auth",
    privileged=True,
)

INVOICE_READER = AgentRole(
    "InvoiceReader",
    "invoice-reader",
    (
        AgentTask(
            "extract-invoices",
            (
                make_step("fetch_mail", "read", VENDOR, "mail:read", size_out=40_000),
                make_step(
                    "read_document", "read", INVOICE, "documents:read", again=0.35, size_out=90_000, duration_ms=900
                ),
                make_step("store_fields", "write", INVOICE, "invoices:write", size_in=1200, size_out=200),
            ),
            loop=0.6,
            weight=4,
        ),
        AgentTask(
            "ask-vendor",
            (
                make_step("read_document", "read", INVOICE, "documents:read", size_out=90_000),
                make_step("send_email", "write", VENDOR, "mail:send", size_in=1800, size_out=1800),
            ),
        ),
    ),
    activity=1.2,
    lifetime_s=900,
)

SUPPORT_TRIAGE = AgentRole(
    "SupportTriage",
    "support-triage",
    (
        AgentTask(
            "answer-tickets",
            (
                make_step("read_ticket", "read", TICKET, "tickets:read", size_out=3500),
                make_step("search_kb", "read", ARTICLE, "kb:read", again=0.45, size_out=8000),
                make_step("lookup_customer", "read", CUSTOMER, "crm:read", skip=0.3, derived=True),
                make_step("suggest_tags", "write", TICKET, "tickets:write", since=1, size_out=150),
                make_step("send_reply", "write", CUSTOMER, "mail:send", size_in=1500, size_out=1500, derived=True),
                make_step("update_ticket", "write", TICKET, "tickets:write", size_out=300),
            ),
            loop=0.35,
        ),
    ),
    activity=1.6,
    shift="extended",
)

ORCHESTRATOR = AgentRole(
    "Orchestrator",
    "orchestrator",
    (
        AgentTask(
            "close-the-books",
            (
                make_step("plan_work", "read", PLAN, "plans:read", duration_ms=1800),
                make_step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="InvoiceReader"),
                make_step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="PaymentProcessor"),
                make_step("update_plan", "write", PLAN, "plans:write", size_out=500),
            ),
            weight=2,
        ),
        AgentTask(
            "prepare-briefing",
            (
                make_step("plan_work", "read", PLAN, "plans:read", duration_ms=1800),
                make_step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="ResearchAgent"),
                make_step(
                    "send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="CalendarAssistant", skip=0.5
                ),
                make_step("update_plan", "write", PLAN, "plans:write", size_out=500),
            ),
        ),
    ),
    activity=1.5,
    lifetime_s=900,
    privileged=True,
)

CALENDAR_ASSISTANT = AgentRole(
    "CalendarAssistant",
    "calendar-assistant",
    (
        AgentTask(
            "schedule-meeting",
            (
                make_step(
                    "read_calendar", "read", CALENDAR, "calendar:read", again=0.5, size_out=2500, type="api.call"
                ),
                make_step("find_room", "read", CALENDAR, "calendar:read", skip=0.5, size_out=900),
                make_step("create_event", "write", CALENDAR, "calendar:write", size_out=500, type="api.call"),
                make_step("send_invite", "write", GUEST, "mail:send", again=0.4, size_in=900, size_out=900),
            ),
        ),
    ),
    activity=0.8,
    method="client_secret_basic",
)

HR_ASSISTANT = AgentRole(
    "HRAssistant",
    "hr-assistant",
    (
        AgentTask(
            "answer-employee",
            (
                make_step("read_profile", "read", EMPLOYEE, "hr:read", size_out=2200),
                make_step("search_policy", "read", ARTICLE, "kb:read", again=0.4, size_out=8000),
                make_step("update_profile", "write", EMPLOYEE, "hr:write", skip=0.7, denied=0.01),
            ),
            weight=3,
        ),
        AgentTask(
            "screen-candidates",
            (
                make_step("read_resume", "read", CANDIDATE, "recruiting:read", again=0.5, size_out=45_000),
                make_step("send_email", "write", CANDIDATE, "mail:send", size_in=1300, size_out=1300),
            ),
        ),
    ),
    activity=0.6,
    method="client_secret_basic",
)

INVENTORY_PLANNER = AgentRole(
    "InventoryPlanner",
    "inventory-planner",
    (
        AgentTask(
            "replenish-stock",
            (
                make_step("read_stock", "read", SKU, "stock:read", again=0.7, size_out=800, type="api.call"),
                make_step("forecast", "read", SKU, "stock:read", skip=0.3, duration_ms=2200, size_out=2500),
                make_step("create_order", "write", ORDER, "orders:write", size_out=500, type="api.call"),
                make_step("send_email", "write", SUPPLIER, "mail:send", size_in=1100, size_out=1100),
            ),
            loop=0.3,
        ),
    ),
    activity=0.9,
)


# Roles that work with data, code and machines.


CODE_REVIEWER = AgentRole(
    "CodeReviewer",
    "code-reviewer",
    (
        AgentTask(
            "review-changes",
            (
                make_step("read_diff", "read", PULL, "repo:read", size_out=25_000, type="api.call"),
                make_step("read_file", "read", REPO, "repo:read", again=0.6, size_out=12_000, type="api.call"),
                make_step("run_linter", "read", REPO, "ci:run", skip=0.3, duration_ms=4000, error=0.04),
                make_step("post_comment", "write", PULL, "repo:comment", again=0.4, size_in=700, size_out=250),
            ),
            loop=0.2,
            weight=4,
        ),
        AgentTask(
            "merge-and-ship",
            (
                make_step("merge_change", "write", PULL, "repo:write", denied=0.02),
                make_step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="DeploymentBot"),
            ),
        ),
    ),
)

DATA_ANALYST = AgentRole(
    "DataAnalyst",
    "data-analyst",
    (
        AgentTask(
            "answer-question",
            (
                make_step("list_tables", "read", TABLE, "data:read", size_out=5000),
                make_step(
                    "run_query", "read", TABLE, "data:read", again=0.55, size_out=60_000, duration_ms=2500, error=0.05
                ),
                make_step("create_chart", "write", REPORT, "reports:write", skip=0.3, size_in=9000, size_out=600),
            ),
            loop=0.25,
            weight=4,
        ),
        AgentTask(
            "share-report",
            (
                make_step("read_report", "read", REPORT, "reports:read", size_out=30_000),
                make_step("send_email", "write", GUEST, "mail:send", size_in=3000, size_out=3000),
            ),
        ),
    ),
    lifetime_s=1800,
)

DEPLOYMENT_BOT = AgentRole(
    "DeploymentBot",
    "deployment-bot",
    (
        AgentTask(
            "roll-out",
            (
                make_step("read_manifest", "read", SERVICE, "deploy:read", type="api.call"),
                make_step("fetch_config", "read", VAULT, "vault:read", size_out=700),
                make_step(
                    "apply_release", "admin", CLUSTER, "deploy:write", type="admin", duration_ms=9000, error=0.03
                ),
                make_step("check_health", "read", SERVICE, "deploy:read", again=0.7, size_out=300, type="api.call"),
                make_step("delete_old_release", "delete", SERVICE, "deploy:write", skip=0.6, type="admin"),
            ),
            for_user=False,
        ),
    ),
    activity=0.7,
    shift="always",
    lifetime_s=600,
    method="tls_client_auth",
    privileged=True,
)

RESEARCH_AGENT = AgentRole(
    "ResearchAgent",
    "research-agent",
    (
        AgentTask(
            "research-topic",
            (
                make_step("web_search", "read", INDEX, "search:query", again=0.3, size_out=7000, duration_ms=700),
                make_step(
                    "fetch_page", "read", PAGE, "web:fetch", again=0.6, size_out=70_000, duration_ms=1200, error=0.06
                ),
                make_step(
                    "send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="DataAnalyst", skip=0.75
                ),
                make_step("summarize", "read", INDEX, "search:query", since=1, size_out=4000, duration_ms=3000),
                make_step("write_note", "write", ARTICLE, "kb:write", size_in=4000, size_out=300),
            ),
            loop=0.3,
            weight=4,
        ),
        AgentTask(
            "submit-form",
            (
                make_step("fetch_page", "read", PAGE, "web:fetch", size_out=70_000),
                make_step("post_form", "write", PAGE, "web:post", size_in=1500, size_out=1500),
            ),
        ),
    ),
    activity=1.1,
    lifetime_s=1800,
)

SECURITY_TRIAGE = AgentRole(
    "SecurityTriage",
    "security-triage",
    (
        AgentTask(
            "triage-alerts",
            (
                make_step("read_alert", "read", ALERT, "siem:read", size_out=3000, type="api.call"),
                make_step(
                    "query_logs", "read", HOST, "siem:read", again=0.5, size_out=20_000, duration_ms=1500, derived=True
                ),
                make_step("check_reputation", "read", PAGE, "web:fetch", skip=0.6, size_out=1200),
                make_step("close_alert", "write", ALERT, "siem:write", size_out=200),
            ),
            loop=0.4,
            for_user=False,
        ),
    ),
    activity=1.5,
    shift="always",
)

BACKUP_RUNNER = AgentRole(
    "BackupRunner",
    "backup-runner",
    (
        AgentTask(
            "nightly-backup",
            (
                make_step("list_volumes", "read", VOLUME, "storage:read", size_out=5000, type="api.call"),
                make_step(
                    "read_snapshot", "read", VOLUME, "storage:read", again=0.5, size_out=4_000_000, duration_ms=6000
                ),
                make_step("write_archive", "write", BUCKET, "storage:write", size_in=4_000_000, size_out=400),
                make_step("prune_archive", "delete", BUCKET, "storage:delete", skip=0.7, size_out=200),
            ),
            loop=0.6,
            for_user=False,
        ),
    ),
    activity=0.8,
    shift="night",
    lifetime_s=3600,
)


ROLES: tuple[AgentRole, ...] = (
    ORCHESTRATOR,
    PAYMENT_PROCESSOR,
    INVOICE_READER,
    SUPPORT_TRIAGE,
    RESEARCH_AGENT,
    DATA_ANALYST,
    CALENDAR_ASSISTANT,
    DEPLOYMENT_BOT,
    CODE_REVIEWER,
    HR_ASSISTANT,
    SECURITY_TRIAGE,
    BACKUP_RUNNER,
    INVENTORY_PLANNER,
)
"""Orchestrators and those they call come first, so that a small enterprise has delegation too."""

ROLES_BY_NAME = {role.name: role for role in ROLES}
