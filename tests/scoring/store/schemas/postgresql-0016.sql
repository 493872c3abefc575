CREATE TABLE public.actuations (
    target text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    status text NOT NULL COLLATE pg_catalog."C",
    caused_ms bigint NOT NULL,
    wanted_ms bigint NOT NULL,
    confirmed_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    error text NOT NULL COLLATE pg_catalog."C",
    desired bytea NOT NULL,
    original bytea NOT NULL
);
CREATE TABLE public.agents (
    key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    level smallint NOT NULL,
    risk_score double precision NOT NULL,
    confidence double precision NOT NULL,
    anomaly_score double precision NOT NULL,
    first_seen_ms bigint NOT NULL,
    last_seen_ms bigint NOT NULL,
    evaluated_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    events bigint NOT NULL,
    decision_id text NOT NULL COLLATE pg_catalog."C",
    counterfactual text NOT NULL COLLATE pg_catalog."C",
    state_version text NOT NULL COLLATE pg_catalog."C",
    reasons bytea NOT NULL,
    features bytea NOT NULL,
    risk bytea NOT NULL,
    partition integer DEFAULT 0 NOT NULL,
    version_epoch bigint DEFAULT '0'::bigint NOT NULL,
    version_offset bigint DEFAULT '0'::bigint NOT NULL,
    concern text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    indicators bytea DEFAULT '\x5b5d'::bytea NOT NULL
)
WITH (fillfactor='70', toast_tuple_target='8160');
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.case_agents (
    case_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    ordinal integer NOT NULL,
    level smallint NOT NULL,
    peak smallint NOT NULL,
    joined_ms bigint NOT NULL,
    last_ms bigint NOT NULL,
    decision_id text NOT NULL COLLATE pg_catalog."C",
    tie text NOT NULL COLLATE pg_catalog."C",
    tied_by text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.case_decisions (
    decision_id text NOT NULL COLLATE pg_catalog."C",
    case_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    decided_ms bigint NOT NULL
);
CREATE TABLE public.case_entries (
    case_id text NOT NULL COLLATE pg_catalog."C",
    sequence integer NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    at_ms bigint NOT NULL,
    by text NOT NULL COLLATE pg_catalog."C",
    action text NOT NULL COLLATE pg_catalog."C",
    note text NOT NULL COLLATE pg_catalog."C",
    detail bytea NOT NULL
);
CREATE TABLE public.case_ties (
    digest text NOT NULL COLLATE pg_catalog."C",
    case_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C",
    last_ms bigint NOT NULL
);
CREATE TABLE public.cases (
    case_id text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    verdict text NOT NULL COLLATE pg_catalog."C",
    level smallint NOT NULL,
    lead_decision_id text NOT NULL COLLATE pg_catalog."C",
    opened_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    risen_ms bigint NOT NULL,
    acknowledged_ms bigint NOT NULL,
    contained_ms bigint NOT NULL,
    closed_ms bigint NOT NULL,
    held_until_ms bigint NOT NULL,
    owner text NOT NULL COLLATE pg_catalog."C",
    snoozed_until_ms bigint NOT NULL,
    merged_into text NOT NULL COLLATE pg_catalog."C",
    agents integer NOT NULL,
    decisions integer NOT NULL,
    revision integer NOT NULL
);
CREATE TABLE public.counters (
    name text NOT NULL COLLATE pg_catalog."C",
    value bigint NOT NULL
);
CREATE TABLE public.dead_letters (
    letter_id text NOT NULL COLLATE pg_catalog."C",
    received_ms bigint NOT NULL,
    source text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL COLLATE pg_catalog."C",
    path text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    replayed_ms bigint DEFAULT '0'::bigint NOT NULL,
    raw bytea NOT NULL
);
CREATE TABLE public.decision_chains (
    partition integer NOT NULL,
    sequence bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    anchor_sequence bigint NOT NULL,
    anchor_digest text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.decisions (
    decision_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    decided_ms bigint NOT NULL,
    event_id text NOT NULL COLLATE pg_catalog."C",
    event_time_ms bigint NOT NULL,
    previous_level smallint NOT NULL,
    level smallint NOT NULL,
    risk_score double precision NOT NULL,
    confidence double precision NOT NULL,
    anomaly_score double precision NOT NULL,
    p_value double precision NOT NULL,
    counterfactual text NOT NULL COLLATE pg_catalog."C",
    model_version text NOT NULL COLLATE pg_catalog."C",
    baseline_version text NOT NULL COLLATE pg_catalog."C",
    policy_version text NOT NULL COLLATE pg_catalog."C",
    mode text NOT NULL COLLATE pg_catalog."C",
    cause text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reasons bytea NOT NULL,
    feature_vector bytea NOT NULL,
    evidence bytea NOT NULL,
    chain_sequence bigint DEFAULT '0'::bigint NOT NULL,
    chain_salt text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_content text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_previous text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_digest text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    erasure_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    redacted text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
)
PARTITION BY RANGE (decided_ms);
CREATE TABLE public.decisions_default (
    decision_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    decided_ms bigint NOT NULL,
    event_id text NOT NULL COLLATE pg_catalog."C",
    event_time_ms bigint NOT NULL,
    previous_level smallint NOT NULL,
    level smallint NOT NULL,
    risk_score double precision NOT NULL,
    confidence double precision NOT NULL,
    anomaly_score double precision NOT NULL,
    p_value double precision NOT NULL,
    counterfactual text NOT NULL COLLATE pg_catalog."C",
    model_version text NOT NULL COLLATE pg_catalog."C",
    baseline_version text NOT NULL COLLATE pg_catalog."C",
    policy_version text NOT NULL COLLATE pg_catalog."C",
    mode text NOT NULL COLLATE pg_catalog."C",
    cause text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reasons bytea NOT NULL,
    feature_vector bytea NOT NULL,
    evidence bytea NOT NULL,
    chain_sequence bigint DEFAULT '0'::bigint NOT NULL,
    chain_salt text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_content text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_previous text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    chain_digest text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    erasure_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    redacted text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.deliveries (
    seq bigint NOT NULL,
    target text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    attempts integer DEFAULT 0 NOT NULL,
    queued_ms bigint NOT NULL,
    next_attempt_ms bigint NOT NULL,
    last_error text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    delivered_ms bigint DEFAULT '0'::bigint NOT NULL,
    suppressed_before integer DEFAULT 0 NOT NULL,
    agent_key bigint NOT NULL,
    "group" text NOT NULL COLLATE pg_catalog."C",
    case_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.edges (
    edge_id text NOT NULL COLLATE pg_catalog."C",
    source_key bigint NOT NULL,
    target_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    target text NOT NULL COLLATE pg_catalog."C",
    first_ms bigint NOT NULL,
    last_ms bigint NOT NULL,
    risk double precision NOT NULL,
    risk_ms bigint NOT NULL
);
CREATE TABLE public.erasures (
    erasure_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    subject text NOT NULL COLLATE pg_catalog."C",
    subject_salt text NOT NULL COLLATE pg_catalog."C",
    subject_digest text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL COLLATE pg_catalog."C",
    asked_by text NOT NULL COLLATE pg_catalog."C",
    asked_ms bigint NOT NULL,
    at_offset bigint NOT NULL,
    at_ms bigint NOT NULL,
    rounds integer NOT NULL,
    error text NOT NULL COLLATE pg_catalog."C",
    updated_ms bigint NOT NULL,
    done_ms bigint NOT NULL,
    counts bytea NOT NULL,
    proof bytea NOT NULL
);
CREATE TABLE public.event_ids (
    partition integer NOT NULL,
    first_offset bigint NOT NULL,
    end_offset bigint NOT NULL,
    hashes bytea NOT NULL
);
CREATE TABLE public.event_streams (
    stream_id text NOT NULL COLLATE pg_catalog."C",
    owner text NOT NULL COLLATE pg_catalog."C",
    audience text NOT NULL COLLATE pg_catalog."C",
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    method text NOT NULL COLLATE pg_catalog."C",
    endpoint_url text NOT NULL COLLATE pg_catalog."C",
    "authorization" text NOT NULL COLLATE pg_catalog."C",
    description text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    status_reason text NOT NULL COLLATE pg_catalog."C",
    failures bigint NOT NULL,
    failing_since_ms bigint NOT NULL,
    next_push_ms bigint NOT NULL,
    verified_ms bigint NOT NULL,
    events_requested bytea NOT NULL
);
CREATE TABLE public.feedback (
    feedback_id text NOT NULL COLLATE pg_catalog."C",
    verdict text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    decision_id text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    resource text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL COLLATE pg_catalog."C",
    author text NOT NULL COLLATE pg_catalog."C",
    created_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    preview_id text NOT NULL COLLATE pg_catalog."C",
    unseen smallint NOT NULL,
    event_id text NOT NULL COLLATE pg_catalog."C",
    event_time_ms bigint NOT NULL,
    level smallint NOT NULL,
    from_ms bigint NOT NULL,
    until_ms bigint NOT NULL,
    withdraw double precision NOT NULL,
    revoked_by text NOT NULL COLLATE pg_catalog."C",
    revoked_ms bigint NOT NULL,
    revoked_why text NOT NULL COLLATE pg_catalog."C",
    updated_ms bigint NOT NULL,
    scope bytea NOT NULL
);
CREATE TABLE public.feedback_holdings (
    rule_id text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    from_offset bigint NOT NULL,
    until_offset bigint NOT NULL,
    matched bigint NOT NULL,
    last_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    rule bytea NOT NULL
);
CREATE TABLE public.feedback_previews (
    preview_id text NOT NULL COLLATE pg_catalog."C",
    decision_id text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    author text NOT NULL COLLATE pg_catalog."C",
    draft text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    progress double precision NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    error text NOT NULL COLLATE pg_catalog."C",
    result bytea NOT NULL
);
CREATE TABLE public.feedback_steps (
    feedback_id text NOT NULL COLLATE pg_catalog."C",
    action text NOT NULL COLLATE pg_catalog."C",
    at_ms bigint NOT NULL,
    by text NOT NULL COLLATE pg_catalog."C",
    why text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.forgotten (
    mark text NOT NULL COLLATE pg_catalog."C",
    at_ms bigint NOT NULL
);
CREATE TABLE public.interventions (
    intervention_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    issuer text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    level smallint NOT NULL,
    asked_why text NOT NULL COLLATE pg_catalog."C",
    asked_by text NOT NULL COLLATE pg_catalog."C",
    asked_ms bigint NOT NULL,
    decided_by text NOT NULL COLLATE pg_catalog."C",
    decided_ms bigint NOT NULL,
    why text NOT NULL COLLATE pg_catalog."C",
    expires_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    scopes bytea NOT NULL
);
CREATE TABLE public.meta (
    key text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE public.model_days (
    version text NOT NULL COLLATE pg_catalog."C",
    day integer NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL COLLATE pg_catalog."C",
    events bigint NOT NULL,
    agent_days bigint NOT NULL,
    alerts bytea NOT NULL,
    p_values bytea NOT NULL,
    drift bytea NOT NULL
);
CREATE TABLE public.model_history (
    entry_id text NOT NULL COLLATE pg_catalog."C",
    at_ms bigint NOT NULL,
    version text NOT NULL COLLATE pg_catalog."C",
    act text NOT NULL COLLATE pg_catalog."C",
    by text NOT NULL COLLATE pg_catalog."C",
    why text NOT NULL COLLATE pg_catalog."C",
    detail bytea NOT NULL
);
CREATE TABLE public.model_switches (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    "offset" bigint NOT NULL,
    version text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    installed text NOT NULL COLLATE pg_catalog."C",
    at_ms bigint NOT NULL
);
CREATE TABLE public.model_versions (
    version text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    from_ms bigint NOT NULL,
    to_ms bigint NOT NULL,
    created_ms bigint NOT NULL,
    promoted_ms bigint NOT NULL,
    changed_ms bigint NOT NULL,
    counted_from bigint NOT NULL,
    trained bytea NOT NULL,
    figures bytea NOT NULL
);
CREATE TABLE public.outbox (
    seq bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    target text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    created_ms bigint NOT NULL,
    agent_key bigint NOT NULL,
    "group" text NOT NULL COLLATE pg_catalog."C",
    level smallint NOT NULL,
    routed_ms bigint DEFAULT '0'::bigint NOT NULL,
    payload bytea NOT NULL,
    derived_ms bigint DEFAULT '0'::bigint NOT NULL
);
CREATE SEQUENCE public.outbox_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.outbox_seq_seq OWNED BY public.outbox.seq;
CREATE TABLE public.positions (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    "offset" bigint NOT NULL,
    published bigint DEFAULT '0'::bigint NOT NULL
);
CREATE TABLE public.received_signals (
    transmitter text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    received_ms bigint NOT NULL
);
CREATE TABLE public.saved_views (
    view_id text NOT NULL COLLATE pg_catalog."C",
    owner text NOT NULL COLLATE pg_catalog."C",
    page text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    changed_ms bigint NOT NULL,
    query bytea NOT NULL
);
CREATE TABLE public.security_events (
    seq bigint NOT NULL,
    stream_id text NOT NULL COLLATE pg_catalog."C",
    jti text NOT NULL COLLATE pg_catalog."C",
    queued_ms bigint NOT NULL,
    agent_key bigint NOT NULL,
    tenant text NOT NULL COLLATE pg_catalog."C",
    announces_status smallint NOT NULL,
    claims bytea NOT NULL
);
CREATE SEQUENCE public.security_events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.security_events_seq_seq OWNED BY public.security_events.seq;
CREATE TABLE public.shared_views (
    view_id text NOT NULL COLLATE pg_catalog."C",
    tenant text NOT NULL COLLATE pg_catalog."C",
    page text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    shared_by text NOT NULL COLLATE pg_catalog."C",
    changed_ms bigint NOT NULL,
    query bytea NOT NULL
);
CREATE TABLE public.signal_statements (
    transmitter text NOT NULL COLLATE pg_catalog."C",
    statement text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    said_ms bigint NOT NULL
);
CREATE TABLE public.stream_subjects (
    stream_id text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    owner text NOT NULL COLLATE pg_catalog."C",
    wanted smallint NOT NULL,
    changed_ms bigint NOT NULL,
    subject bytea NOT NULL
);
CREATE TABLE public.target_stops (
    name text NOT NULL COLLATE pg_catalog."C",
    fingerprint text NOT NULL COLLATE pg_catalog."C",
    stopped_ms bigint NOT NULL,
    reason text NOT NULL COLLATE pg_catalog."C"
);
ALTER TABLE ONLY public.decisions ATTACH PARTITION public.decisions_default DEFAULT;
ALTER TABLE ONLY public.outbox ALTER COLUMN seq SET DEFAULT nextval('public.outbox_seq_seq'::regclass);
ALTER TABLE ONLY public.security_events ALTER COLUMN seq SET DEFAULT nextval('public.security_events_seq_seq'::regclass);
ALTER TABLE ONLY public.actuations
    ADD CONSTRAINT actuations_pkey PRIMARY KEY (target, agent_key);
ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.case_agents
    ADD CONSTRAINT case_agents_pkey PRIMARY KEY (case_id, agent_key);
ALTER TABLE ONLY public.case_decisions
    ADD CONSTRAINT case_decisions_pkey PRIMARY KEY (decision_id);
ALTER TABLE ONLY public.case_entries
    ADD CONSTRAINT case_entries_pkey PRIMARY KEY (case_id, sequence);
ALTER TABLE ONLY public.case_ties
    ADD CONSTRAINT case_ties_pkey PRIMARY KEY (digest, case_id, agent_key);
ALTER TABLE ONLY public.cases
    ADD CONSTRAINT cases_pkey PRIMARY KEY (case_id);
ALTER TABLE ONLY public.counters
    ADD CONSTRAINT counters_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (letter_id);
ALTER TABLE ONLY public.decision_chains
    ADD CONSTRAINT decision_chains_pkey PRIMARY KEY (partition);
ALTER TABLE ONLY public.decisions
    ADD CONSTRAINT decisions_pkey PRIMARY KEY (decision_id, decided_ms);
ALTER TABLE ONLY public.decisions_default
    ADD CONSTRAINT decisions_default_pkey PRIMARY KEY (decision_id, decided_ms);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (seq, target);
ALTER TABLE ONLY public.edges
    ADD CONSTRAINT edges_pkey PRIMARY KEY (edge_id);
ALTER TABLE ONLY public.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (erasure_id);
ALTER TABLE ONLY public.event_ids
    ADD CONSTRAINT event_ids_pkey PRIMARY KEY (partition, first_offset);
ALTER TABLE ONLY public.event_streams
    ADD CONSTRAINT event_streams_pkey PRIMARY KEY (stream_id);
ALTER TABLE ONLY public.feedback_holdings
    ADD CONSTRAINT feedback_holdings_pkey PRIMARY KEY (rule_id, partition);
ALTER TABLE ONLY public.feedback
    ADD CONSTRAINT feedback_pkey PRIMARY KEY (feedback_id);
ALTER TABLE ONLY public.feedback_previews
    ADD CONSTRAINT feedback_previews_pkey PRIMARY KEY (preview_id);
ALTER TABLE ONLY public.feedback_steps
    ADD CONSTRAINT feedback_steps_pkey PRIMARY KEY (feedback_id, action);
ALTER TABLE ONLY public.forgotten
    ADD CONSTRAINT forgotten_pkey PRIMARY KEY (mark);
ALTER TABLE ONLY public.interventions
    ADD CONSTRAINT interventions_pkey PRIMARY KEY (intervention_id);
ALTER TABLE ONLY public.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.model_days
    ADD CONSTRAINT model_days_pkey PRIMARY KEY (version, day, tenant, agent_type);
ALTER TABLE ONLY public.model_history
    ADD CONSTRAINT model_history_pkey PRIMARY KEY (entry_id);
ALTER TABLE ONLY public.model_switches
    ADD CONSTRAINT model_switches_pkey PRIMARY KEY (partition, epoch, "offset");
ALTER TABLE ONLY public.model_versions
    ADD CONSTRAINT model_versions_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_key_key UNIQUE (key);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.positions
    ADD CONSTRAINT positions_pkey PRIMARY KEY (partition);
ALTER TABLE ONLY public.received_signals
    ADD CONSTRAINT received_signals_pkey PRIMARY KEY (transmitter, digest);
ALTER TABLE ONLY public.saved_views
    ADD CONSTRAINT saved_views_pkey PRIMARY KEY (view_id);
ALTER TABLE ONLY public.security_events
    ADD CONSTRAINT security_events_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.shared_views
    ADD CONSTRAINT shared_views_pkey PRIMARY KEY (view_id);
ALTER TABLE ONLY public.signal_statements
    ADD CONSTRAINT signal_statements_pkey PRIMARY KEY (transmitter, statement);
ALTER TABLE ONLY public.stream_subjects
    ADD CONSTRAINT stream_subjects_pkey PRIMARY KEY (stream_id, digest);
ALTER TABLE ONLY public.target_stops
    ADD CONSTRAINT target_stops_pkey PRIMARY KEY (name);
CREATE INDEX ix_decisions_agent ON ONLY public.decisions USING btree (agent_key, decided_ms, decision_id);
CREATE INDEX decisions_default_agent_key_decided_ms_decision_id_idx ON public.decisions_default USING btree (agent_key, decided_ms, decision_id);
CREATE INDEX ix_decisions_time ON ONLY public.decisions USING btree (decided_ms, decision_id);
CREATE INDEX decisions_default_decided_ms_decision_id_idx ON public.decisions_default USING btree (decided_ms, decision_id);
CREATE INDEX ix_decisions_release ON ONLY public.decisions USING btree (decided_ms, decision_id) WHERE (cause = 'release'::text);
CREATE INDEX decisions_default_decided_ms_decision_id_idx1 ON public.decisions_default USING btree (decided_ms, decision_id) WHERE (cause = 'release'::text);
CREATE INDEX ix_decisions_chain ON ONLY public.decisions USING btree (partition, chain_sequence);
CREATE INDEX decisions_default_partition_chain_sequence_idx ON public.decisions_default USING btree (partition, chain_sequence);
CREATE INDEX ix_decisions_offset ON ONLY public.decisions USING btree (partition, "offset", decision_id);
CREATE INDEX decisions_default_partition_offset_decision_id_idx ON public.decisions_default USING btree (partition, "offset", decision_id);
CREATE INDEX ix_decisions_tenant ON ONLY public.decisions USING btree (tenant, decided_ms, decision_id);
CREATE INDEX decisions_default_tenant_decided_ms_decision_id_idx ON public.decisions_default USING btree (tenant, decided_ms, decision_id);
CREATE INDEX ix_actuations_agent ON public.actuations USING btree (agent_key);
CREATE INDEX ix_actuations_time ON public.actuations USING btree (updated_ms, target, agent_key);
CREATE INDEX ix_agents_due ON public.agents USING btree (partition, due_ms, key) WHERE (due_ms > 0);
CREATE INDEX ix_agents_id ON public.agents USING btree (agent_id);
CREATE INDEX ix_agents_level ON public.agents USING btree (level, tenant, agent_id, issuer);
CREATE UNIQUE INDEX ix_agents_name ON public.agents USING btree (tenant, agent_id, issuer);
CREATE INDEX ix_agents_partition ON public.agents USING btree (partition, key);
CREATE INDEX ix_case_agents_agent ON public.case_agents USING btree (agent_key);
CREATE INDEX ix_case_decisions_case ON public.case_decisions USING btree (case_id, decided_ms);
CREATE INDEX ix_case_ties_case ON public.case_ties USING btree (case_id);
CREATE INDEX ix_cases_opened ON public.cases USING btree (opened_ms);
CREATE INDEX ix_cases_status ON public.cases USING btree (status, updated_ms, case_id);
CREATE INDEX ix_cases_time ON public.cases USING btree (updated_ms, case_id);
CREATE INDEX ix_dead_letters_replayed ON public.dead_letters USING btree (replayed_ms, received_ms);
CREATE INDEX ix_dead_letters_time ON public.dead_letters USING btree (received_ms, letter_id);
CREATE INDEX ix_deliveries_case ON public.deliveries USING btree (case_id, target, "group", seq);
CREATE INDEX ix_deliveries_cooldown ON public.deliveries USING btree (target, agent_key, "group", seq);
CREATE INDEX ix_deliveries_due ON public.deliveries USING btree (target, status, next_attempt_ms);
CREATE INDEX ix_deliveries_status ON public.deliveries USING btree (status, queued_ms);
CREATE INDEX ix_edges_source ON public.edges USING btree (source_key, kind);
CREATE INDEX ix_edges_target ON public.edges USING btree (target_key, kind);
CREATE INDEX ix_edges_time ON public.edges USING btree (last_ms);
CREATE INDEX ix_erasures_time ON public.erasures USING btree (asked_ms, erasure_id);
CREATE INDEX ix_event_streams_owner ON public.event_streams USING btree (owner, created_ms);
CREATE INDEX ix_feedback_agent ON public.feedback USING btree (agent_key, created_ms);
CREATE INDEX ix_feedback_decision ON public.feedback USING btree (decision_id);
CREATE INDEX ix_feedback_holdings_partition ON public.feedback_holdings USING btree (partition, until_offset);
CREATE INDEX ix_feedback_previews_time ON public.feedback_previews USING btree (created_ms, preview_id);
CREATE INDEX ix_feedback_status ON public.feedback USING btree (status, expires_ms);
CREATE INDEX ix_feedback_time ON public.feedback USING btree (created_ms, feedback_id);
CREATE INDEX ix_interventions_agent ON public.interventions USING btree (agent_key, kind, status);
CREATE INDEX ix_interventions_open ON public.interventions USING btree (status, expires_ms);
CREATE INDEX ix_interventions_time ON public.interventions USING btree (asked_ms, intervention_id);
CREATE INDEX ix_interventions_updated ON public.interventions USING btree (updated_ms);
CREATE INDEX ix_model_days_day ON public.model_days USING btree (day);
CREATE INDEX ix_model_history_time ON public.model_history USING btree (at_ms, entry_id);
CREATE INDEX ix_model_versions_status ON public.model_versions USING btree (status);
CREATE INDEX ix_model_versions_time ON public.model_versions USING btree (created_ms, version);
CREATE INDEX ix_outbox_derived ON public.outbox USING btree (derived_ms, seq);
CREATE INDEX ix_outbox_routed ON public.outbox USING btree (routed_ms, seq);
CREATE INDEX ix_received_signals_time ON public.received_signals USING btree (received_ms);
CREATE INDEX ix_saved_views_owner ON public.saved_views USING btree (owner, page);
CREATE UNIQUE INDEX ix_security_events_jti ON public.security_events USING btree (stream_id, jti);
CREATE INDEX ix_security_events_order ON public.security_events USING btree (stream_id, seq);
CREATE INDEX ix_shared_views_tenant ON public.shared_views USING btree (tenant, page);
CREATE INDEX ix_signal_statements_time ON public.signal_statements USING btree (said_ms);
ALTER INDEX public.ix_decisions_agent ATTACH PARTITION public.decisions_default_agent_key_decided_ms_decision_id_idx;
ALTER INDEX public.ix_decisions_time ATTACH PARTITION public.decisions_default_decided_ms_decision_id_idx;
ALTER INDEX public.ix_decisions_release ATTACH PARTITION public.decisions_default_decided_ms_decision_id_idx1;
ALTER INDEX public.ix_decisions_chain ATTACH PARTITION public.decisions_default_partition_chain_sequence_idx;
ALTER INDEX public.ix_decisions_offset ATTACH PARTITION public.decisions_default_partition_offset_decision_id_idx;
ALTER INDEX public.decisions_pkey ATTACH PARTITION public.decisions_default_pkey;
ALTER INDEX public.ix_decisions_tenant ATTACH PARTITION public.decisions_default_tenant_decided_ms_decision_id_idx;
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_seq_fkey FOREIGN KEY (seq) REFERENCES public.outbox(seq) ON DELETE CASCADE;
ALTER TABLE ONLY public.security_events
    ADD CONSTRAINT security_events_stream_id_fkey FOREIGN KEY (stream_id) REFERENCES public.event_streams(stream_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.stream_subjects
    ADD CONSTRAINT stream_subjects_stream_id_fkey FOREIGN KEY (stream_id) REFERENCES public.event_streams(stream_id) ON DELETE CASCADE;
