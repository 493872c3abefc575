"""Roles that work with data, code and machines: a table, no logic."""

from __future__ import annotations

from .grammar import AgentRole, AgentTask
from .kinds import (
    ALERT,
    ARTICLE,
    BUCKET,
    CLUSTER,
    GUEST,
    HOST,
    INDEX,
    PAGE,
    PLAN,
    PULL,
    REPO,
    REPORT,
    SERVICE,
    TABLE,
    VAULT,
    VOLUME,
    make_step,
)

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
