BEGIN TRANSACTION;
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
	risk BLOB NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
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
	evidence BLOB NOT NULL, 
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
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
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
	"offset" BIGINT NOT NULL, 
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
CREATE INDEX ix_agents_due ON agents (due_ms, "key") WHERE due_ms > 0;
CREATE INDEX ix_decisions_agent ON decisions (agent_key, decided_ms, decision_id);
CREATE INDEX ix_decisions_tenant ON decisions (tenant, decided_ms, decision_id);
CREATE INDEX ix_decisions_time ON decisions (decided_ms, decision_id);
CREATE INDEX ix_dead_letters_time ON dead_letters (received_ms, letter_id);
CREATE INDEX ix_dead_letters_replayed ON dead_letters (replayed_ms, received_ms);
CREATE INDEX ix_outbox_routed ON outbox (routed_ms, seq);
CREATE INDEX ix_deliveries_due ON deliveries (target, status, next_attempt_ms);
CREATE INDEX ix_deliveries_status ON deliveries (status, queued_ms);
CREATE INDEX ix_deliveries_cooldown ON deliveries (target, agent_key, "group", seq);
COMMIT;
