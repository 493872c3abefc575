"""All roles of the enterprise."""

from __future__ import annotations

from .grammar import AgentRole
from .roles_business import (
    CALENDAR_ASSISTANT,
    HR_ASSISTANT,
    INVENTORY_PLANNER,
    INVOICE_READER,
    ORCHESTRATOR,
    PAYMENT_PROCESSOR,
    SUPPORT_TRIAGE,
)
from .roles_technical import BACKUP_RUNNER, CODE_REVIEWER, DATA_ANALYST, DEPLOYMENT_BOT, RESEARCH_AGENT, SECURITY_TRIAGE

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
