"""Roles that work with money, customers and people: a table, no logic."""

from __future__ import annotations

from .grammar import AgentRole, AgentTask
from .kinds import (
    ACCOUNT,
    ARTICLE,
    CALENDAR,
    CANDIDATE,
    CUSTOMER,
    EMPLOYEE,
    GUEST,
    INVOICE,
    ORDER,
    PAYEE,
    PLAN,
    SKU,
    SUPPLIER,
    TICKET,
    VENDOR,
    make_step,
)

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
