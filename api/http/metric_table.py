"""Every metric, declared once; `reference/metrics.md` is held to this table by a test."""

from __future__ import annotations

from typing import Final, NamedTuple


class MetricDefinition(NamedTuple):
    """One metric. *kind* `counter` and `histogram` are counted as things happen, `observed …` read when asked."""

    name: str
    kind: str  # counter | histogram | observed counter | observed gauge | observed histogram
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram; none = those of all durations


METRICS: Final = (
    MetricDefinition(
        "trustwatch_build_info",
        "observed gauge",
        "1",
        "always 1; the versions of Trustwatch and Python of the process that answers",
        ("version", "python"),
    ),
    MetricDefinition(
        "trustwatch_settings_reloads_total",
        "observed counter",
        "reloads",
        "times that the settings were read again (SIGHUP), by outcome: applied, or wrong (nothing changed)",
        ("outcome",),
    ),
    MetricDefinition(
        "trustwatch_http_requests_total", "counter", "requests", "answers by route and status", ("route", "status")
    ),
    MetricDefinition(
        "trustwatch_http_request_seconds", "histogram", "s", "time from request to answer, by route", ("route",)
    ),
    MetricDefinition(
        "trustwatch_connections_closed_total",
        "observed counter",
        "connections",
        "connections that were closed before their client was done, by cause: head_timeout, head_too_large, "
        "trailers_too_large, idle_timeout (bytes that begin no request), body_timeout, send_timeout (its client takes "
        "no answer), unread_body (of a request that was answered already), max_connections, unauthenticated_bytes",
        ("cause",),
    ),
    MetricDefinition(
        "trustwatch_events_total",
        "counter",
        "events",
        "events at the intake by source and outcome: accepted, duplicate, rejected or skipped",
        ("source", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_events_refused_requests_total",
        "counter",
        "requests",
        "requests with events that were told to come again, by source and cause: rate, quota, share, fairness, memory, "
        "lag, disk, reserve",
        ("source", "cause"),
    ),
    MetricDefinition(
        "trustwatch_disk_reserve_reached",
        "observed gauge",
        "0 or 1",
        "1 while the disk holds only what orders of people need, so events are refused",
    ),
    MetricDefinition(
        "trustwatch_log_next_offset", "observed gauge", "records", "offset that the next logged record gets"
    ),
    MetricDefinition(
        "trustwatch_log_failed", "observed gauge", "0 or 1", "whether the disk refused and the log is not reopened"
    ),
    MetricDefinition("trustwatch_pipeline_alive", "observed gauge", "0 or 1", "whether the pipeline process runs"),
    MetricDefinition(
        "trustwatch_pipeline_silence_seconds",
        "observed gauge",
        "s",
        "time since the pipeline last reported; -1 is never",
    ),
    MetricDefinition(
        "trustwatch_pipeline_age_seconds",
        "observed gauge",
        "s",
        "age of the newest event that all answers take into account: what turns answers stale; -1 is unknown",
    ),
    MetricDefinition(
        "trustwatch_pipeline_offset", "observed gauge", "records", "offset that the pipeline has committed"
    ),
    MetricDefinition(
        "trustwatch_pipeline_behind", "observed gauge", "records", "records that waited at the last report"
    ),
    MetricDefinition(
        "trustwatch_archive_lag_seconds",
        "observed gauge",
        "s",
        "age of the oldest record that waits for its file; normal is up to archive.interval_s",
    ),
    MetricDefinition(
        "trustwatch_partition_age_seconds",
        "observed gauge",
        "s",
        "with Kafka, by partition: age of the newest "
        "event that its answers take into account; a worker shows those it owns; -1 is unknown",
        ("partition",),
    ),
    MetricDefinition(
        "trustwatch_pipeline_records_total",
        "observed counter",
        "records",
        "what the pipeline did since its start, by what: events, duplicates, dead_letters, late_events, "
        "out_of_order_events (late by more than a minute: no evidence of pace and order), "
        "unordered_events (no evidence of order: late by so much, or their agent's events come out of order), "
        "feedback_matched (a rule of feedback counted), "
        "old_events (a day old at their arrival), known_events (old, and not newer than the model's history), "
        "hasty_events (while most agents send days of their work within an hour), decisions, identity_conflicts; "
        "where vectors are archived, vectors_dropped; "
        "with Kafka also published and unchanged agents, fenced partitions, ticks_not_sent, "
        "heartbeats_not_sent and producers_replaced",
        ("what",),
    ),
    MetricDefinition(
        "trustwatch_pipeline_seconds_total", "observed counter", "s", "time of the pipeline by stage", ("stage",)
    ),
    MetricDefinition(
        "trustwatch_dead_letters_dropped_total", "observed counter", "records", "dead letters that found no room"
    ),
    MetricDefinition(
        "trustwatch_decisions_total",
        "observed counter",
        "decisions",
        "changes of level seen by this process, by the new level",
        ("level",),
    ),
    MetricDefinition("trustwatch_agents", "observed gauge", "agents", "agents in the risk view"),
    MetricDefinition(
        "trustwatch_deliveries_total",
        "observed counter",
        "attempts",
        "attempts to deliver alerts by target and outcome: delivered, retry, failed, gone or skipped",
        ("target", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_security_events_total",
        "observed counter",
        "tokens",
        "security event tokens of streams in this process, by outcome: queued, delivered (a push was taken), "
        "acknowledged (by a poll), failed (the receiver refuses it for good), retry (a push is put off), "
        "withdrawn (a tenant was taken from the receiver); and streams "
        "that were paused (nobody took a push for too long) or disabled (too many tokens waited)",
        ("outcome",),
    ),
    MetricDefinition(
        "trustwatch_cases",
        "observed gauge",
        "cases",
        "cases that are not closed, by status (open, acknowledged, contained) and highest level; read from the "
        "database every 15 s, so the same in every process that answers",
        ("status", "level"),
    ),
    MetricDefinition(
        "trustwatch_case_oldest_seconds",
        "observed gauge",
        "s",
        "time since the oldest case of a status was opened; absent where none has it",
        ("status",),
    ),
    MetricDefinition(
        "trustwatch_case_response_seconds",
        "histogram",
        "s",
        "time from the opening of a case until a person first acknowledged or contained it, by what was done "
        "(acknowledge, contain)",
        ("act",),
        (60, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800),
    ),
    MetricDefinition(
        "trustwatch_alert_budget",
        "observed gauge",
        "alerts",
        "false alerts that are accepted per 1,000 agent-days, by level: risk.alert_budget",
        ("level",),
    ),
    MetricDefinition(
        "trustwatch_received_signals_total",
        "observed counter",
        "tokens",
        "security event tokens of others by transmitter and outcome: believed as hard, evidence, change or note; "
        "duplicate, repeated (evidence said again within a day), stale, not_covered (more than the transmitter may "
        "speak for), no_agent, stream, verified (a verification that was asked for), unknown_type, rejected; "
        "or refused, by the error of RFC 8935 and SSF 1.0 (invalid_state: a verification that was not)",
        ("transmitter", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_issuer_keys",
        "observed gauge",
        "keys",
        "keys held of each issuer; without any, its tokens are refused",
        ("issuer",),
    ),
    MetricDefinition(
        "trustwatch_issuer_keys_skipped_total",
        "observed counter",
        "keys",
        "members of issuers' key sets that could not be read and were skipped, at each fetch",
        ("issuer",),
    ),
    MetricDefinition(
        "trustwatch_callers_refused_total",
        "observed counter",
        "requests",
        "requests of known callers that reach beyond their entry of the settings, by caller ("
        "persons: console) and code: "
        "insufficient_scope, tenant_not_allowed, source_not_allowed, own_decision (nobody decides about itself), "
        "agent_not_allowed (AuthZEN denied a question about an agent that the caller may not speak for)",
        ("caller", "code"),
    ),
    MetricDefinition(
        "trustwatch_proofs_refused_total",
        "observed counter",
        "requests",
        "requests with a bound token (DPoP, mTLS) and without its proof, by way and failure; what says something of "
        "the agent is an audit event, too",
        ("via", "failure"),
    ),
    MetricDefinition(
        "trustwatch_verdicts_total",
        "observed counter",
        "verdicts",
        "verdicts on requests for tokens and on calls, "
        "by way (the product that asked), risk level that was acted on, reason and mode; in shadow mode a reason "
        "other than allowed is what would have been refused",
        ("via", "level", "reason", "mode"),
    ),
    MetricDefinition(
        "trustwatch_call_verdicts_total",
        "observed counter",
        "verdicts",
        "verdicts on calls before they are made, by way, effect of the call, decision, and what it rests on: the "
        "model, or the level alone; in shadow mode a decision other than allow is what would have been held",
        ("via", "effect", "decision", "basis"),
    ),
    MetricDefinition(
        "trustwatch_verdict_failures_total",
        "observed counter",
        "verdicts",
        "questions that could not be decided, "
        "by way and by what was answered for that reason: open (as if nothing stood against it) or closed",
        ("via", "fails"),
    ),
    MetricDefinition(
        "trustwatch_hook_seconds",
        "histogram",
        "s",
        "time from request to answer of the hooks at issuance, by name",
        ("hook",),
    ),
    MetricDefinition(
        "trustwatch_gateway_seconds",
        "histogram",
        "s",
        "time from request to answer of checks for gateways, by way",
        ("way",),
    ),
    MetricDefinition(
        "trustwatch_gateway_answers_total",
        "counter",
        "answers",
        "answers to gateways by way and kind: allowed, "
        "denied, step_up, missing_token, invalid_token, no_keys (of the issuer), undecided and allowed_unjudged (a "
        "fault of ours); of introspection active, inactive, denied, unreachable, unauthorized, unreadable",
        ("way", "answer"),
    ),
    MetricDefinition(
        "trustwatch_tokens_revoked_total",
        "observed counter",
        "tokens",
        "tokens that were seen at a gateway or "
        "introspection though policy says revoke, by issuer and by what came of their revocation (RFC 7009)",
        ("issuer", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_actuations_total",
        "observed counter",
        "attempts",
        "attempts of actuators by target and "
        "outcome: confirmed (lowered, and read back), applied (accepted, nobody can be asked), restored, unchanged "
        "(nothing was to be done), superseded (something newer is wanted), skipped (not its agent), retry or failed",
        ("target", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_containment_seconds",
        "observed histogram",
        "s",
        "time from the event to what the server confirmed because of it, by target",
        ("target",),
    ),
    MetricDefinition(
        "trustwatch_audit_events_total",
        "observed counter",
        "events",
        "audit events of our own (what hooks and "
        "gateways asked, what people decided), by outcome: written, or dropped (no room, or a fault of ours)",
        ("outcome",),
    ),
    MetricDefinition(
        "trustwatch_policy_errors_total",
        "observed counter",
        "reloads",
        "token policy files that were wrong and did not come into force: the last good one holds",
    ),
    MetricDefinition(
        "trustwatch_approvals_failed_total",
        "observed counter",
        "approvals",
        "approvals that failed, by what: unasked (the store took none, or too many waited, so nobody could be asked) "
        "or unspent (one for one use that gave no permit, since the store did not answer)",
        ("what",),
    ),
    MetricDefinition(
        "trustwatch_source_silent",
        "observed gauge",
        "0 or 1",
        "whether a source (caller or foreign topic) with `silence_s` has sent nothing for so long to this process",
        ("source",),
    ),
    MetricDefinition(
        "trustwatch_ingest_records_total",
        "observed counter",
        "records",
        "records of foreign topics since the "
        "ingest process started, by source and outcome: accepted, rejected (a dead letter) or skipped (no audit "
        "event by its mapping)",
        ("source", "outcome"),
    ),
    MetricDefinition(
        "trustwatch_ingest_lag",
        "observed gauge",
        "records",
        "records that wait in a foreign topic; -1 is not known, or none of its partitions is read here",
        ("source",),
    ),
    MetricDefinition(
        "trustwatch_ingest_reading", "observed gauge", "0 or 1", "whether a foreign topic can be read", ("source",)
    ),
)
