PRAGMA application_id=1961753;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, source TEXT, said TEXT NOT NULL,
    job_id TEXT, cursor TEXT, ended INTEGER NOT NULL DEFAULT 0);
INSERT INTO "chunks" VALUES(1,'idefiq-c9c8cd251b8177a516b5ba62ec280a34',NULL,'{"model": null, "defaults": {"kind": "caption"}, "name": "command line: in"}','job_01a2273bc181038d741fa2fea170','Mw',1);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "facts" VALUES('identity','{"question": {"request": {"kind": "caption"}, "text_field": "prompt", "text": "", "system": ""}, "model": null}');
INSERT INTO "facts" VALUES('plan','{"sources": ["in"], "ask": {"request": {"kind": "caption"}, "text_field": "prompt", "text": "", "system": ""}, "model": null, "out": "out.jsonl", "sidecar": "", "existing": "skip", "prefix": "", "suffix": "", "recursive": true, "image_column": null, "limit": 0, "shard_items": 10000}');
INSERT INTO "facts" VALUES('scan','1');
INSERT INTO "facts" VALUES('shards','[]');
CREATE TABLE images (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, location TEXT NOT NULL,
    columns TEXT NOT NULL, stamp TEXT NOT NULL, scan INTEGER NOT NULL, bucket TEXT,
    source TEXT NOT NULL, text TEXT UNIQUE, before TEXT, digests TEXT NOT NULL DEFAULT '',
    written INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL, item TEXT, chunk INTEGER, place INTEGER,
    answer TEXT, error TEXT, code TEXT);
INSERT INTO "images" VALUES(1,'in/a.png','{"file": "in/a.png"}','{"file": "in/a.png"}','73:1795954552966082823',1,NULL,'in',NULL,NULL,'',0,'done','{"images": ["blob:4e27e1f355325927f676ffdd5258b33f812edf7296b072e4d2a6075c0498fdf5"], "custom_id": "in/a.png"}',1,0,'{"text": "a red square", "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 2, "template": "chat/1"}',NULL,NULL);
INSERT INTO "images" VALUES(2,'in/b.png','{"file": "in/b.png"}','{"file": "in/b.png"}','77:1795954552966270242',1,NULL,'in',NULL,NULL,'',0,'done','{"images": ["blob:aad7e07df19405741966136c58080e04330099f2f41042a1f57a7209b2e899c5"], "custom_id": "in/b.png"}',1,1,'{"text": "a red square", "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 2, "template": "chat/1"}',NULL,NULL);
INSERT INTO "images" VALUES(3,'in/c.png','{"file": "in/c.png"}','{"file": "in/c.png"}','75:1795954552966428358',1,NULL,'in',NULL,NULL,'',0,'failed','{"images": ["blob:7b05746c6cab22ca46542cbb776eb97afea61bfa6684f37a1b228a2e00a5375f"], "custom_id": "in/c.png"}',1,2,NULL,'the image''s server took too long','fetch_failed');
CREATE INDEX images_by_state ON images (state, number);
CREATE INDEX images_by_chunk ON images (chunk, place);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('chunks',1);
COMMIT;
