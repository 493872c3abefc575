BEGIN TRANSACTION;
CREATE TABLE actuations (
	target TEXT NOT NULL, 
	agent_key BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	version BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	caused_ms BIGINT NOT NULL, 
	wanted_ms BIGINT NOT NULL, 
	confirmed_ms BIGINT NOT NULL, 
	updated_ms BIGINT NOT NULL, 
	error TEXT NOT NULL, 
	desired BLOB NOT NULL, 
	original BLOB NOT NULL, 
	PRIMARY KEY (target, agent_key)
);
CREATE TABLE agents (
	"key" BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	agent_type TEXT NOT NULL, 
	level SMALLINT NOT NULL, 
	risk_score FLOAT NOT NULL, 
	confidence FLOAT NOT NULL, 
	anomaly_score FLOAT NOT NULL, 
	first_seen_ms BIGINT NOT NULL, 
	last_seen_ms BIGINT NOT NULL, 
	evaluated_ms BIGINT NOT NULL, 
	due_ms BIGINT NOT NULL, 
	events BIGINT NOT NULL, 
	decision_id TEXT NOT NULL, 
	counterfactual TEXT NOT NULL, 
	state_version TEXT NOT NULL, 
	reasons BLOB NOT NULL, 
	features BLOB NOT NULL, 
	risk BLOB NOT NULL, partition INTEGER DEFAULT '0' NOT NULL, version_epoch BIGINT DEFAULT '0' NOT NULL, version_offset BIGINT DEFAULT '0' NOT NULL, concern TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0008');
CREATE TABLE counters (
	name TEXT NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE dead_letters (
	letter_id TEXT NOT NULL, 
	received_ms BIGINT NOT NULL, 
	source TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	path TEXT NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	replayed_ms BIGINT DEFAULT '0' NOT NULL, 
	raw BLOB NOT NULL, 
	PRIMARY KEY (letter_id)
);
CREATE TABLE decision_chains (
	partition INTEGER NOT NULL, 
	sequence BIGINT NOT NULL, 
	digest TEXT NOT NULL, 
	anchor_sequence BIGINT NOT NULL, 
	anchor_digest TEXT NOT NULL, 
	PRIMARY KEY (partition)
);
CREATE TABLE decisions (
	decision_id TEXT NOT NULL, 
	agent_key BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	agent_type TEXT NOT NULL, 
	decided_ms BIGINT NOT NULL, 
	event_id TEXT NOT NULL, 
	event_time_ms BIGINT NOT NULL, 
	previous_level SMALLINT NOT NULL, 
	level SMALLINT NOT NULL, 
	risk_score FLOAT NOT NULL, 
	confidence FLOAT NOT NULL, 
	anomaly_score FLOAT NOT NULL, 
	p_value FLOAT NOT NULL, 
	counterfactual TEXT NOT NULL, 
	model_version TEXT NOT NULL, 
	baseline_version TEXT NOT NULL, 
	policy_version TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	reasons BLOB NOT NULL, 
	feature_vector BLOB NOT NULL, 
	evidence BLOB NOT NULL, chain_sequence BIGINT DEFAULT '0' NOT NULL, chain_salt TEXT DEFAULT '' NOT NULL, chain_content TEXT DEFAULT '' NOT NULL, chain_previous TEXT DEFAULT '' NOT NULL, chain_digest TEXT DEFAULT '' NOT NULL, erasure_id TEXT DEFAULT '' NOT NULL, redacted TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (decision_id)
);
CREATE TABLE deliveries (
	seq INTEGER NOT NULL, 
	target TEXT NOT NULL, 
	status TEXT NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	queued_ms BIGINT NOT NULL, 
	next_attempt_ms BIGINT NOT NULL, 
	last_error TEXT DEFAULT '' NOT NULL, 
	delivered_ms BIGINT DEFAULT '0' NOT NULL, 
	suppressed_before INTEGER DEFAULT '0' NOT NULL, 
	agent_key BIGINT NOT NULL, 
	"group" TEXT NOT NULL, 
	PRIMARY KEY (seq, target), 
	FOREIGN KEY(seq) REFERENCES outbox (seq) ON DELETE CASCADE
);
CREATE TABLE edges (
	edge_id TEXT NOT NULL, 
	source_key BIGINT NOT NULL, 
	target_key BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	source TEXT NOT NULL, 
	target TEXT NOT NULL, 
	first_ms BIGINT NOT NULL, 
	last_ms BIGINT NOT NULL, 
	risk FLOAT NOT NULL, 
	risk_ms BIGINT NOT NULL, 
	PRIMARY KEY (edge_id)
);
CREATE TABLE erasures (
	erasure_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	status TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	subject_salt TEXT NOT NULL, 
	subject_digest TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	asked_by TEXT NOT NULL, 
	asked_ms BIGINT NOT NULL, 
	at_offset BIGINT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	rounds INTEGER NOT NULL, 
	error TEXT NOT NULL, 
	updated_ms BIGINT NOT NULL, 
	done_ms BIGINT NOT NULL, 
	counts BLOB NOT NULL, 
	proof BLOB NOT NULL, 
	PRIMARY KEY (erasure_id)
);
CREATE TABLE feedback (
	feedback_id TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	status TEXT NOT NULL, 
	decision_id TEXT NOT NULL, 
	agent_key BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	agent_type TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	author TEXT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	expires_ms BIGINT NOT NULL, 
	preview_id TEXT NOT NULL, 
	unseen SMALLINT NOT NULL, 
	event_id TEXT NOT NULL, 
	event_time_ms BIGINT NOT NULL, 
	level SMALLINT NOT NULL, 
	from_ms BIGINT NOT NULL, 
	until_ms BIGINT NOT NULL, 
	withdraw FLOAT NOT NULL, 
	revoked_by TEXT NOT NULL, 
	revoked_ms BIGINT NOT NULL, 
	revoked_why TEXT NOT NULL, 
	updated_ms BIGINT NOT NULL, 
	scope BLOB NOT NULL, 
	PRIMARY KEY (feedback_id)
);
CREATE TABLE feedback_holdings (
	rule_id TEXT NOT NULL, 
	partition INTEGER NOT NULL, 
	epoch BIGINT NOT NULL, 
	from_offset BIGINT NOT NULL, 
	until_offset BIGINT NOT NULL, 
	matched BIGINT NOT NULL, 
	last_ms BIGINT NOT NULL, 
	expires_ms BIGINT NOT NULL, 
	rule BLOB NOT NULL, 
	PRIMARY KEY (rule_id, partition)
);
CREATE TABLE feedback_previews (
	preview_id TEXT NOT NULL, 
	decision_id TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	author TEXT NOT NULL, 
	draft TEXT NOT NULL, 
	status TEXT NOT NULL, 
	progress FLOAT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	updated_ms BIGINT NOT NULL, 
	error TEXT NOT NULL, 
	result BLOB NOT NULL, 
	PRIMARY KEY (preview_id)
);
CREATE TABLE feedback_steps (
	feedback_id TEXT NOT NULL, 
	action TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	"by" TEXT NOT NULL, 
	why TEXT NOT NULL, 
	PRIMARY KEY (feedback_id, action)
);
CREATE TABLE forgotten (
	mark TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	PRIMARY KEY (mark)
);
CREATE TABLE interventions (
	intervention_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	status TEXT NOT NULL, 
	agent_key BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	level SMALLINT NOT NULL, 
	asked_why TEXT NOT NULL, 
	asked_by TEXT NOT NULL, 
	asked_ms BIGINT NOT NULL, 
	decided_by TEXT NOT NULL, 
	decided_ms BIGINT NOT NULL, 
	why TEXT NOT NULL, 
	expires_ms BIGINT NOT NULL, 
	updated_ms BIGINT NOT NULL, 
	scopes BLOB NOT NULL, 
	PRIMARY KEY (intervention_id)
);
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE model_days (
	version TEXT NOT NULL, 
	day INTEGER NOT NULL, 
	tenant TEXT NOT NULL, 
	agent_type TEXT NOT NULL, 
	events BIGINT NOT NULL, 
	agent_days BIGINT NOT NULL, 
	alerts BLOB NOT NULL, 
	p_values BLOB NOT NULL, 
	drift BLOB NOT NULL, 
	PRIMARY KEY (version, day, tenant, agent_type)
);
CREATE TABLE model_history (
	entry_id TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	version TEXT NOT NULL, 
	act TEXT NOT NULL, 
	"by" TEXT NOT NULL, 
	why TEXT NOT NULL, 
	detail BLOB NOT NULL, 
	PRIMARY KEY (entry_id)
);
CREATE TABLE model_switches (
	partition INTEGER NOT NULL, 
	epoch BIGINT NOT NULL, 
	"offset" BIGINT NOT NULL, 
	version TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	installed TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	PRIMARY KEY (partition, epoch, "offset")
);
CREATE TABLE model_versions (
	version TEXT NOT NULL, 
	status TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	from_ms BIGINT NOT NULL, 
	to_ms BIGINT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	promoted_ms BIGINT NOT NULL, 
	changed_ms BIGINT NOT NULL, 
	counted_from BIGINT NOT NULL, 
	trained BLOB NOT NULL, 
	figures BLOB NOT NULL, 
	PRIMARY KEY (version)
);
CREATE TABLE outbox (
	seq INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	target TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	agent_key BIGINT NOT NULL, 
	"group" TEXT NOT NULL, 
	level SMALLINT NOT NULL, 
	routed_ms BIGINT DEFAULT '0' NOT NULL, 
	payload BLOB NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE ("key")
);
CREATE TABLE positions (
	partition INTEGER NOT NULL, 
	epoch BIGINT NOT NULL, 
	"offset" BIGINT NOT NULL, published BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (partition)
);
CREATE TABLE target_stops (
	name TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	stopped_ms BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE UNIQUE INDEX ix_agents_name ON agents (tenant, agent_id, issuer);
CREATE INDEX ix_agents_id ON agents (agent_id);
CREATE INDEX ix_agents_level ON agents (level, tenant, agent_id, issuer);
CREATE INDEX ix_decisions_agent ON decisions (agent_key, decided_ms, decision_id);
CREATE INDEX ix_decisions_tenant ON decisions (tenant, decided_ms, decision_id);
CREATE INDEX ix_decisions_time ON decisions (decided_ms, decision_id);
CREATE INDEX ix_dead_letters_time ON dead_letters (received_ms, letter_id);
CREATE INDEX ix_dead_letters_replayed ON dead_letters (replayed_ms, received_ms);
CREATE INDEX ix_outbox_routed ON outbox (routed_ms, seq);
CREATE INDEX ix_deliveries_due ON deliveries (target, status, next_attempt_ms);
CREATE INDEX ix_deliveries_status ON deliveries (status, queued_ms);
CREATE INDEX ix_deliveries_cooldown ON deliveries (target, agent_key, "group", seq);
CREATE INDEX ix_agents_due ON agents (partition, due_ms, "key") WHERE due_ms > 0;
CREATE INDEX ix_decisions_offset ON decisions (partition, "offset", decision_id);
CREATE INDEX ix_interventions_updated ON interventions (updated_ms);
CREATE INDEX ix_interventions_open ON interventions (status, expires_ms);
CREATE INDEX ix_interventions_agent ON interventions (agent_key, kind, status);
CREATE INDEX ix_interventions_time ON interventions (asked_ms, intervention_id);
CREATE INDEX ix_actuations_agent ON actuations (agent_key);
CREATE INDEX ix_actuations_time ON actuations (updated_ms, target, agent_key);
CREATE INDEX ix_edges_source ON edges (source_key, kind);
CREATE INDEX ix_edges_target ON edges (target_key, kind);
CREATE INDEX ix_edges_time ON edges (last_ms);
CREATE INDEX ix_feedback_time ON feedback (created_ms, feedback_id);
CREATE INDEX ix_feedback_status ON feedback (status, expires_ms);
CREATE INDEX ix_feedback_agent ON feedback (agent_key, created_ms);
CREATE INDEX ix_feedback_decision ON feedback (decision_id);
CREATE INDEX ix_feedback_holdings_partition ON feedback_holdings (partition, until_offset);
CREATE INDEX ix_feedback_previews_time ON feedback_previews (created_ms, preview_id);
CREATE INDEX ix_model_versions_status ON model_versions (status);
CREATE INDEX ix_model_versions_time ON model_versions (created_ms, version);
CREATE INDEX ix_model_history_time ON model_history (at_ms, entry_id);
CREATE INDEX ix_model_days_day ON model_days (day);
CREATE INDEX ix_decisions_chain ON decisions (partition, chain_sequence);
CREATE INDEX ix_erasures_time ON erasures (asked_ms, erasure_id);
COMMIT;
