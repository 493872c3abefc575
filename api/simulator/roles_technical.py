"""Roles that work with data, code and machines: a table, no logic."""

from __future__ import annotations

from .grammar import Role, Task
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
    step,
)

CODE_REVIEWER = Role(
    "CodeReviewer",
    "code-reviewer",
    (
        Task(
            "review-changes",
            (
                step("read_diff", "read", PULL, "repo:read", size_out=25_000, type="api.call"),
                step("read_file", "read", REPO, "repo:read", again=0.6, size_out=12_000, type="api.call"),
                step("run_linter", "read", REPO, "ci:run", skip=0.3, duration_ms=4000, error=0.04),
                step("post_comment", "write", PULL, "repo:comment", again=0.4, size_in=700, size_out=250),
            ),
            loop=0.2,
            weight=4,
        ),
        Task(
            "merge-and-ship",
            (
                step("merge_change", "write", PULL, "repo:write", denied=0.02),
                step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="DeploymentBot"),
            ),
        ),
    ),
)

DATA_ANALYST = Role(
    "DataAnalyst",
    "data-analyst",
    (
        Task(
            "answer-question",
            (
                step("list_tables", "read", TABLE, "data:read", size_out=5000),
                step(
                    "run_query", "read", TABLE, "data:read", again=0.55, size_out=60_000, duration_ms=2500, error=0.05
                ),
                step("create_chart", "write", REPORT, "reports:write", skip=0.3, size_in=9000, size_out=600),
            ),
            loop=0.25,
            weight=4,
        ),
        Task(
            "share-report",
            (
                step("read_report", "read", REPORT, "reports:read", size_out=30_000),
                step("send_email", "write", GUEST, "mail:send", size_in=3000, size_out=3000),
            ),
        ),
    ),
    lifetime_s=1800,
)

DEPLOYMENT_BOT = Role(
    "DeploymentBot",
    "deployment-bot",
    (
        Task(
            "roll-out",
            (
                step("read_manifest", "read", SERVICE, "deploy:read", type="api.call"),
                step("fetch_config", "read", VAULT, "vault:read", size_out=700),
                step("apply_release", "admin", CLUSTER, "deploy:write", type="admin", duration_ms=9000, error=0.03),
                step("check_health", "read", SERVICE, "deploy:read", again=0.7, size_out=300, type="api.call"),
                step("delete_old_release", "delete", SERVICE, "deploy:write", skip=0.6, type="admin"),
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

RESEARCH_AGENT = Role(
    "ResearchAgent",
    "research-agent",
    (
        Task(
            "research-topic",
            (
                step("web_search", "read", INDEX, "search:query", again=0.3, size_out=7000, duration_ms=700),
                step("fetch_page", "read", PAGE, "web:fetch", again=0.6, size_out=70_000, duration_ms=1200, error=0.06),
                step("send_message", "write", PLAN, "a2a:call", type="a2a.message", calls="DataAnalyst", skip=0.75),
                step("summarize", "read", INDEX, "search:query", since=1, size_out=4000, duration_ms=3000),
                step("write_note", "write", ARTICLE, "kb:write", size_in=4000, size_out=300),
            ),
            loop=0.3,
            weight=4,
        ),
        Task(
            "submit-form",
            (
                step("fetch_page", "read", PAGE, "web:fetch", size_out=70_000),
                step("post_form", "write", PAGE, "web:post", size_in=1500, size_out=1500),
            ),
        ),
    ),
    activity=1.1,
    lifetime_s=1800,
)

SECURITY_TRIAGE = Role(
    "SecurityTriage",
    "security-triage",
    (
        Task(
            "triage-alerts",
            (
                step("read_alert", "read", ALERT, "siem:read", size_out=3000, type="api.call"),
                step(
                    "query_logs", "read", HOST, "siem:read", again=0.5, size_out=20_000, duration_ms=1500, derived=True
                ),
                step("check_reputation", "read", PAGE, "web:fetch", skip=0.6, size_out=1200),
                step("close_alert", "write", ALERT, "siem:write", size_out=200),
            ),
            loop=0.4,
            for_user=False,
        ),
    ),
    activity=1.5,
    shift="always",
)

BACKUP_RUNNER = Role(
    "BackupRunner",
    "backup-runner",
    (
        Task(
            "nightly-backup",
            (
                step("list_volumes", "read", VOLUME, "storage:read", size_out=5000, type="api.call"),
                step("read_snapshot", "read", VOLUME, "storage:read", again=0.5, size_out=4_000_000, duration_ms=6000),
                step("write_archive", "write", BUCKET, "storage:write", size_in=4_000_000, size_out=400),
                step("prune_archive", "delete", BUCKET, "storage:delete", skip=0.7, size_out=200),
            ),
            loop=0.6,
            for_user=False,
        ),
    ),
    activity=0.8,
    shift="night",
    lifetime_s=3600,
)
