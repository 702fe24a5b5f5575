BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0007');
CREATE TABLE api_keys (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	secret_hash TEXT NOT NULL, 
	note TEXT DEFAULT '' NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, scopes TEXT DEFAULT 'submit read review' NOT NULL, last_used_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT fk_api_keys_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id)
);
CREATE TABLE batches (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	job_id TEXT, 
	model TEXT, 
	input_file_id TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	completion_window TEXT NOT NULL, 
	metadata JSON, 
	lines BIGINT NOT NULL, 
	request_key TEXT, 
	body_digest TEXT, 
	errors JSON, 
	output_expires_seconds INTEGER, 
	output_file_id TEXT, 
	error_file_id TEXT, 
	usage JSON, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	expired_at DATETIME, 
	finalized_at DATETIME, 
	CONSTRAINT pk_batches PRIMARY KEY (id), 
	CONSTRAINT ck_batches_ck_batches_faultless_has_a_job CHECK ((errors IS NULL) = (job_id IS NOT NULL)), 
	CONSTRAINT fk_batches_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT fk_batches_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_batches_owner_id_request_key UNIQUE (owner_id, request_key)
);
CREATE TABLE blobs (
	owner_id INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	verdict TEXT, 
	verdict_message TEXT, 
	format TEXT, 
	width INTEGER, 
	height INTEGER, 
	deaths INTEGER DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, used_at DATETIME DEFAULT '9999-12-31 00:00:00.000000' NOT NULL, collecting_at DATETIME, 
	CONSTRAINT pk_blobs PRIMARY KEY (owner_id, digest), 
	CONSTRAINT ck_blobs_ok_is_measured CHECK (verdict <> 'ok' OR width IS NOT NULL), 
	CONSTRAINT ck_blobs_digest_is_sha256 CHECK (length(digest) = 64), 
	CONSTRAINT fk_blobs_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id)
);
INSERT INTO "blobs" VALUES(1,'0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef',10,'ok',NULL,'PNG',4,4,0,'2026-11-29 12:15:27.427000','2026-11-29 12:15:27.427000',NULL);
CREATE TABLE deliveries (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	webhook_id TEXT NOT NULL, 
	event TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	due_at DATETIME, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	delivered_at DATETIME, 
	status INTEGER, 
	problem TEXT, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_deliveries_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT fk_deliveries_webhook_id_webhooks FOREIGN KEY(webhook_id) REFERENCES webhooks (id) ON DELETE CASCADE
);
CREATE TABLE files (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	filename TEXT NOT NULL, 
	purpose TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	CONSTRAINT pk_files PRIMARY KEY (id), 
	CONSTRAINT fk_files_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id)
);
CREATE TABLE grants (
	id INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	bucket TEXT NOT NULL, 
	prefix TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_grants PRIMARY KEY (id), 
	CONSTRAINT fk_grants_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT uq_grants_owner_id_bucket_prefix UNIQUE (owner_id, bucket, prefix)
);
CREATE TABLE items (
	id INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	job_id TEXT NOT NULL, 
	ordinal BIGINT NOT NULL, 
	custom_id TEXT, 
	request JSON NOT NULL, 
	options_digest TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	state TEXT NOT NULL, 
	due_at DATETIME NOT NULL, 
	attempt INTEGER DEFAULT '0' NOT NULL, 
	tries INTEGER DEFAULT '0' NOT NULL, 
	rescues INTEGER DEFAULT '0' NOT NULL, 
	session_id TEXT, 
	images JSON, 
	claimed_at DATETIME, 
	finished_at DATETIME, 
	result_number BIGINT, 
	answer JSON, 
	error_code TEXT, 
	error_message TEXT, examples JSON, deaths INTEGER DEFAULT '0' NOT NULL, answer_key TEXT, 
	CONSTRAINT pk_items PRIMARY KEY (id), 
	CONSTRAINT ck_items_succeeded_is_answered CHECK ((answer IS NOT NULL) = (state = 'succeeded')), 
	CONSTRAINT ck_items_failed_has_a_code CHECK ((error_code IS NOT NULL) = (state = 'failed')), 
	CONSTRAINT ck_items_final_is_finished CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))), 
	CONSTRAINT ck_items_running_is_leased CHECK ((session_id IS NOT NULL) = (state = 'running')), 
	CONSTRAINT ck_items_stage_is_known CHECK (stage IN ('intake', 'generate')), 
	CONSTRAINT ck_items_state_is_known CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')), 
	CONSTRAINT ck_items_final_is_numbered CHECK ((result_number IS NOT NULL) = (finished_at IS NOT NULL)), 
	CONSTRAINT fk_items_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_items_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT fk_items_session_id_sessions FOREIGN KEY(session_id) REFERENCES sessions (id), 
	CONSTRAINT uq_items_job_id_ordinal UNIQUE (job_id, ordinal)
);
INSERT INTO "items" VALUES(1,1,'job_01a2273b4cc4f254074ad4a40aa8',0,'a.html','{"images":["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],"alt_text":{"page":"a.html"}}','3e4326ab69bab5f0','generate','succeeded','2026-11-29 12:15:27.429000',1,0,0,NULL,'["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]','2026-11-29 12:15:27.446000','2026-11-29 12:15:27.457000',1,'{"text":"a text of a.html","finish_reason":"stop","prompt_tokens":9,"completion_tokens":3,"template":"alt-text/1 caption/1","path":"slots","alt_text":{"objections":[{"code":"lower_case","message":"begins with a small letter"}],"rewritten":false,"certainty":0.5,"language":"English"}}',NULL,NULL,NULL,0,NULL);
INSERT INTO "items" VALUES(2,1,'job_01a2273b4cc4f254074ad4a40aa8',1,'b.html','{"images":["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],"alt_text":{"page":"b.html"}}','3e4326ab69bab5f0','generate','succeeded','2026-11-29 12:15:27.429000',1,0,0,NULL,'["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]','2026-11-29 12:15:27.446000','2026-11-29 12:15:27.457000',2,'{"text":"a text of b.html","finish_reason":"stop","prompt_tokens":9,"completion_tokens":3,"template":"alt-text/1 caption/1","path":"slots","alt_text":{"objections":[{"code":"lower_case","message":"begins with a small letter"}],"rewritten":false,"certainty":0.75,"language":"English"}}',NULL,NULL,NULL,0,NULL);
INSERT INTO "items" VALUES(3,1,'job_01a2273b4cc4f254074ad4a40aa8',2,'c.html','{"images":["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],"alt_text":{"page":"c.html"}}','3e4326ab69bab5f0','generate','running','2026-11-29 12:15:27.429000',1,0,0,'c22f256f70e98ed1a39ba221','["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]','2026-11-29 12:15:27.472000',NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO "items" VALUES(4,1,'job_01a2273b4cf440dc3c1184957153',0,'q1','{"images":["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]}','a9a7f5d7faf939c0','generate','succeeded','2026-11-29 12:15:27.476000',1,0,0,NULL,'["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]','2026-11-29 12:15:27.479000','2026-11-29 12:15:27.484000',1,'{"text":"Ada","finish_reason":"stop","prompt_tokens":9,"completion_tokens":1,"template":"vqa/1","path":"slots"}',NULL,NULL,NULL,0,NULL);
INSERT INTO "items" VALUES(5,1,'job_01a2273b4cf440dc3c1184957153',1,'q2','{"images":["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]}','a9a7f5d7faf939c0','generate','failed','2026-11-29 12:15:27.476000',1,1,0,NULL,'["blob:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]','2026-11-29 12:15:27.479000','2026-11-29 12:15:27.485000',2,NULL,'out_of_memory','the item does not fit the device, even alone',NULL,0,NULL);
CREATE TABLE jobs (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	model TEXT NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	defaults JSON NOT NULL, 
	idempotency_key TEXT, 
	body_digest TEXT, 
	spool_key TEXT, 
	spool_lines BIGINT DEFAULT '0' NOT NULL, 
	spool_offset BIGINT DEFAULT '0' NOT NULL, 
	results_key TEXT, 
	created_at DATETIME NOT NULL, 
	sealed_at DATETIME, 
	started_at DATETIME, 
	paused_at DATETIME, 
	cancelled_at DATETIME, 
	finished_at DATETIME, 
	total BIGINT DEFAULT '0' NOT NULL, 
	queued BIGINT DEFAULT '0' NOT NULL, 
	running BIGINT DEFAULT '0' NOT NULL, 
	succeeded BIGINT DEFAULT '0' NOT NULL, 
	failed BIGINT DEFAULT '0' NOT NULL, 
	cancelled BIGINT DEFAULT '0' NOT NULL, 
	results BIGINT DEFAULT '0' NOT NULL, examples JSON, origin TEXT DEFAULT 'job' NOT NULL CONSTRAINT ck_jobs_origin_is_known CHECK (origin IN ('job', 'batch', 'chat')), source TEXT, source_after TEXT, listed_at DATETIME, priority INTEGER DEFAULT '0' NOT NULL, rank_at DATETIME DEFAULT '1970-01-01 00:00:00.000000' NOT NULL, expires_at DATETIME, deleted_at DATETIME, spool_bytes BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT ck_jobs_finished_has_nothing_open CHECK (finished_at IS NULL OR (sealed_at IS NOT NULL AND queued = 0 AND running = 0)), 
	CONSTRAINT ck_jobs_counts_are_not_negative CHECK (queued >= 0 AND running >= 0 AND succeeded >= 0 AND failed >= 0 AND cancelled >= 0), 
	CONSTRAINT ck_jobs_counts_add_up CHECK (total = queued + running + succeeded + failed + cancelled), 
	CONSTRAINT fk_jobs_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT uq_jobs_owner_id_idempotency_key UNIQUE (owner_id, idempotency_key)
);
INSERT INTO "jobs" VALUES('job_01a2273b4cc4f254074ad4a40aa8',1,'echo','a site','{"kind":"caption","alt_text":{"target_length":80}}',NULL,NULL,NULL,0,0,NULL,'2026-11-29 12:15:27.428000','2026-11-29 12:15:27.431000','2026-11-29 12:15:27.446000',NULL,NULL,NULL,3,0,1,2,0,0,2,NULL,'job',NULL,NULL,NULL,0,'2026-11-29 12:15:27.428000',NULL,NULL,0);
INSERT INTO "jobs" VALUES('job_01a2273b4cf440dc3c1184957153',1,'echo','questions','{"kind":"vqa","question":"Who?"}',NULL,NULL,NULL,0,0,NULL,'2026-11-29 12:15:27.476000','2026-11-29 12:15:27.477000','2026-11-29 12:15:27.479000',NULL,NULL,'2026-11-29 12:15:27.485000',2,0,0,1,1,0,2,NULL,'job',NULL,NULL,NULL,0,'2026-11-29 12:15:27.476000',NULL,NULL,0);
CREATE TABLE models (
	name TEXT NOT NULL, 
	card JSON NOT NULL, 
	offered_at DATETIME NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (name)
);
INSERT INTO "models" VALUES('echo','{"name":"echo","family":"echo","kinds":["caption","vqa","chat"],"limits":{"max_images":2,"max_examples":0,"max_new_tokens":64},"licence":"Apache-2.0","style":"chat","languages":[],"follows_instructions":true,"defaults":{},"checks":null,"serving":null,"fingerprint":"","note":"Not a model.","revision":"","dtype":"","quantize":"","adapter":"","device":""}','2026-11-29 12:15:27.425000');
CREATE TABLE owners (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	created_at DATETIME NOT NULL, weight FLOAT DEFAULT 1 NOT NULL CONSTRAINT ck_owners_weight_is_positive CHECK (weight > 0), claimed_at DATETIME, max_queued_items BIGINT, max_job_items BIGINT, max_stored_bytes BIGINT, 
	CONSTRAINT pk_owners PRIMARY KEY (id), 
	CONSTRAINT uq_owners_name UNIQUE (name)
);
INSERT INTO "owners" VALUES(1,'local','2026-11-29 12:15:27.425000',1.0,'2026-11-29 12:15:27.479000',NULL,NULL,NULL);
CREATE TABLE review_steps (
	item_id INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	action TEXT NOT NULL, 
	state TEXT NOT NULL, 
	text TEXT, 
	long_description TEXT, 
	language TEXT, 
	undo_to INTEGER, 
	reviewer TEXT NOT NULL, 
	key_id TEXT, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_review_steps PRIMARY KEY (item_id, revision), 
	CONSTRAINT ck_review_steps_action_is_known CHECK (action IN ('accept', 'edit', 'decorative', 'reject', 'undo')), 
	CONSTRAINT fk_review_steps_item_id_reviews FOREIGN KEY(item_id) REFERENCES reviews (item_id) ON DELETE CASCADE, 
	CONSTRAINT fk_review_steps_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id)
);
INSERT INTO "review_steps" VALUES(1,1,1,'accept','accepted','a text of a.html',NULL,'English',0,'Ada',NULL,'2026-11-29 12:15:27.465000');
CREATE TABLE reviews (
	item_id INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	job_id TEXT NOT NULL, 
	page TEXT NOT NULL, 
	certainty FLOAT NOT NULL, 
	state TEXT NOT NULL, 
	decided INTEGER NOT NULL, 
	text TEXT, 
	long_description TEXT, 
	language TEXT, 
	revision INTEGER DEFAULT '0' NOT NULL, 
	reviewer TEXT, 
	reviewed_at DATETIME, 
	CONSTRAINT pk_reviews PRIMARY KEY (item_id), 
	CONSTRAINT ck_reviews_state_is_known CHECK (state IN ('unreviewed', 'accepted', 'edited', 'decorative', 'rejected')), 
	CONSTRAINT ck_reviews_unreviewed_is_undecided CHECK ((decided = 0) = (state = 'unreviewed')), 
	CONSTRAINT ck_reviews_decided_is_yes_or_no CHECK (decided IN (0, 1)), 
	CONSTRAINT fk_reviews_item_id_items FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE, 
	CONSTRAINT fk_reviews_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT fk_reviews_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "reviews" VALUES(1,1,'job_01a2273b4cc4f254074ad4a40aa8','a.html',0.5,'accepted',1,'a text of a.html',NULL,'English',1,'Ada','2026-11-29 12:15:27.464000');
INSERT INTO "reviews" VALUES(2,1,'job_01a2273b4cc4f254074ad4a40aa8','b.html',0.75,'unreviewed',0,'a text of b.html',NULL,'English',0,NULL,NULL);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	model TEXT, 
	started_at DATETIME NOT NULL, 
	alive_until DATETIME NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (id)
);
INSERT INTO "sessions" VALUES('c22f256f70e98ed1a39ba221','w1','generate','echo','2026-11-29 12:15:27.441000','2026-01-01 00:00:00.000000');
CREATE TABLE webhooks (
	id TEXT NOT NULL, 
	owner_id INTEGER NOT NULL, 
	url TEXT NOT NULL, 
	events TEXT NOT NULL, 
	secret TEXT NOT NULL, 
	former_secret TEXT, 
	former_until DATETIME, 
	created_at DATETIME NOT NULL, 
	disabled_at DATETIME, 
	CONSTRAINT pk_webhooks PRIMARY KEY (id), 
	CONSTRAINT fk_webhooks_owner_id_owners FOREIGN KEY(owner_id) REFERENCES owners (id)
);
CREATE INDEX ix_sessions_alive_until ON sessions (alive_until);
CREATE INDEX ix_sessions_worker ON sessions (worker);
CREATE INDEX ix_jobs_owner_id_id ON jobs (owner_id, id);
CREATE INDEX ix_jobs_spooled ON jobs (id) WHERE spool_key IS NOT NULL;
CREATE INDEX ix_items_due ON items (job_id, stage, due_at, id) WHERE state = 'queued';
CREATE INDEX ix_items_leased ON items (session_id, id) WHERE state = 'running';
CREATE UNIQUE INDEX ix_items_results ON items (job_id, result_number) WHERE result_number IS NOT NULL;
CREATE INDEX ix_jobs_unwritten ON jobs (id) WHERE finished_at IS NOT NULL AND results_key IS NULL AND origin = 'job';
CREATE INDEX ix_jobs_unlisted ON jobs (id) WHERE source IS NOT NULL AND sealed_at IS NULL;
CREATE INDEX ix_jobs_chats ON jobs (id) WHERE finished_at IS NULL AND origin = 'chat';
CREATE INDEX ix_files_owner_id_id ON files (owner_id, id);
CREATE INDEX ix_files_expires_at ON files (expires_at);
CREATE INDEX ix_batches_owner_id_id ON batches (owner_id, id);
CREATE INDEX ix_batches_open ON batches (id) WHERE finalized_at IS NULL;
CREATE INDEX ix_jobs_claimable ON jobs (owner_id, rank_at, id) WHERE finished_at IS NULL;
CREATE INDEX ix_jobs_expiring ON jobs (expires_at) WHERE finished_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX ix_jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX ix_jobs_deleted ON jobs (id) WHERE deleted_at IS NOT NULL;
CREATE INDEX ix_blobs_used_at ON blobs (used_at);
CREATE INDEX ix_blobs_collecting_at ON blobs (collecting_at) WHERE collecting_at IS NOT NULL;
CREATE INDEX ix_batches_job_id ON batches (job_id);
CREATE INDEX ix_webhooks_owner_id_id ON webhooks (owner_id, id);
CREATE INDEX ix_deliveries_subject ON deliveries (subject);
CREATE INDEX ix_deliveries_webhook_id_created_at ON deliveries (webhook_id, created_at);
CREATE INDEX ix_deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_reviews_by_page ON reviews (owner_id, decided, page, item_id);
CREATE INDEX ix_reviews_by_certainty ON reviews (owner_id, decided, certainty, item_id);
CREATE INDEX ix_reviews_job_id ON reviews (job_id, item_id);
CREATE INDEX ix_items_answer_key ON items (owner_id, answer_key, state, id) WHERE answer_key IS NOT NULL;
COMMIT;
