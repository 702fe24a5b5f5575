"""The record: owners, jobs, items, sessions, blobs"""

import sqlalchemy as sa
from alembic import op

import db.sql.clock

from sqlalchemy.dialects import postgresql
revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table('models',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('card', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=False),
    sa.Column('offered_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_models'))
    )
    op.create_table('owners',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('created_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_owners')),
    sa.UniqueConstraint('name', name=op.f('uq_owners_name'))
    )
    op.create_table('sessions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('worker', sa.Text(), nullable=False),
    sa.Column('stage', sa.Text(), nullable=False),
    sa.Column('model', sa.Text(), nullable=True),
    sa.Column('started_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.Column('alive_until', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sessions'))
    )
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_sessions_alive_until'), ['alive_until'], unique=False)
        batch_op.create_index(batch_op.f('ix_sessions_worker'), ['worker'], unique=False)

    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('secret_hash', sa.Text(), nullable=False),
    sa.Column('note', sa.Text(), server_default='', nullable=False),
    sa.Column('created_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.Column('expires_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_api_keys_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys'))
    )
    op.create_table('blobs',
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('verdict', sa.Text(), nullable=True),
    sa.Column('verdict_message', sa.Text(), nullable=True),
    sa.Column('format', sa.Text(), nullable=True),
    sa.Column('width', sa.Integer(), nullable=True),
    sa.Column('height', sa.Integer(), nullable=True),
    sa.Column('deaths', sa.Integer(), server_default='0', nullable=False),
    sa.Column('created_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.CheckConstraint("verdict <> 'ok' OR width IS NOT NULL", name=op.f('ck_blobs_ok_is_measured')),
    sa.CheckConstraint('length(digest) = 64', name=op.f('ck_blobs_digest_is_sha256')),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_blobs_owner_id_owners')),
    sa.PrimaryKeyConstraint('owner_id', 'digest', name=op.f('pk_blobs'))
    )
    op.create_table('grants',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('bucket', sa.Text(), nullable=False),
    sa.Column('prefix', sa.Text(), server_default='', nullable=False),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_grants_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_grants')),
    sa.UniqueConstraint('owner_id', 'bucket', 'prefix', name=op.f('uq_grants_owner_id_bucket_prefix'))
    )
    op.create_table('jobs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('model', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('defaults', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=False),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('body_digest', sa.Text(), nullable=True),
    sa.Column('spool_key', sa.Text(), nullable=True),
    sa.Column('spool_lines', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('spool_offset', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('results_key', sa.Text(), nullable=True),
    sa.Column('created_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.Column('sealed_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('started_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('paused_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('cancelled_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('finished_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('total', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('queued', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('running', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('succeeded', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('failed', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('cancelled', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('results', sa.BigInteger(), server_default='0', nullable=False),
    sa.CheckConstraint('finished_at IS NULL OR (sealed_at IS NOT NULL AND queued = 0 AND running = 0)', name=op.f('ck_jobs_finished_has_nothing_open')),
    sa.CheckConstraint('queued >= 0 AND running >= 0 AND succeeded >= 0 AND failed >= 0 AND cancelled >= 0', name=op.f('ck_jobs_counts_are_not_negative')),
    sa.CheckConstraint('total = queued + running + succeeded + failed + cancelled', name=op.f('ck_jobs_counts_add_up')),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_jobs_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_jobs')),
    sa.UniqueConstraint('owner_id', 'idempotency_key', name=op.f('uq_jobs_owner_id_idempotency_key'))
    )
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.create_index('ix_jobs_open', ['model', 'id'], unique=False, postgresql_where=sa.text('finished_at IS NULL'), sqlite_where=sa.text('finished_at IS NULL'))
        batch_op.create_index('ix_jobs_owner_id_id', ['owner_id', 'id'], unique=False)
        batch_op.create_index('ix_jobs_spooled', ['id'], unique=False, postgresql_where=sa.text('spool_key IS NOT NULL'), sqlite_where=sa.text('spool_key IS NOT NULL'))
        batch_op.create_index('ix_jobs_unwritten', ['id'], unique=False, postgresql_where=sa.text('finished_at IS NOT NULL AND results_key IS NULL'), sqlite_where=sa.text('finished_at IS NOT NULL AND results_key IS NULL'))

    op.create_table('items',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('ordinal', sa.BigInteger(), nullable=False),
    sa.Column('custom_id', sa.Text(), nullable=True),
    sa.Column('request', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=False),
    sa.Column('options_digest', sa.Text(), nullable=False),
    sa.Column('stage', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('due_at', db.sql.clock.UtcDateTime(timezone=True), nullable=False),
    sa.Column('attempt', sa.Integer(), server_default='0', nullable=False),
    sa.Column('tries', sa.Integer(), server_default='0', nullable=False),
    sa.Column('rescues', sa.Integer(), server_default='0', nullable=False),
    sa.Column('session_id', sa.Text(), nullable=True),
    sa.Column('images', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('claimed_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('finished_at', db.sql.clock.UtcDateTime(timezone=True), nullable=True),
    sa.Column('result_number', sa.BigInteger(), nullable=True),
    sa.Column('answer', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('error_message', sa.Text(), nullable=True),
    sa.CheckConstraint("(answer IS NOT NULL) = (state = 'succeeded')", name=op.f('ck_items_succeeded_is_answered')),
    sa.CheckConstraint("(error_code IS NOT NULL) = (state = 'failed')", name=op.f('ck_items_failed_has_a_code')),
    sa.CheckConstraint("(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))", name=op.f('ck_items_final_is_finished')),
    sa.CheckConstraint("(session_id IS NOT NULL) = (state = 'running')", name=op.f('ck_items_running_is_leased')),
    sa.CheckConstraint("stage IN ('intake', 'generate')", name=op.f('ck_items_stage_is_known')),
    sa.CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f('ck_items_state_is_known')),
    sa.CheckConstraint('(result_number IS NOT NULL) = (finished_at IS NOT NULL)', name=op.f('ck_items_final_is_numbered')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_items_job_id_jobs')),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_items_owner_id_owners')),
    sa.ForeignKeyConstraint(['session_id'], ['sessions.id'], name=op.f('fk_items_session_id_sessions')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_items')),
    sa.UniqueConstraint('job_id', 'ordinal', name=op.f('uq_items_job_id_ordinal'))
    )
    with op.batch_alter_table('items', schema=None) as batch_op:
        batch_op.create_index('ix_items_due', ['job_id', 'stage', 'due_at', 'id'], unique=False, postgresql_where=sa.text("state = 'queued'"), sqlite_where=sa.text("state = 'queued'"))
        batch_op.create_index('ix_items_leased', ['session_id', 'id'], unique=False, postgresql_where=sa.text("state = 'running'"), sqlite_where=sa.text("state = 'running'"))
        batch_op.create_index('ix_items_results', ['job_id', 'result_number'], unique=True, postgresql_where=sa.text('result_number IS NOT NULL'), sqlite_where=sa.text('result_number IS NOT NULL'))




def downgrade() -> None:

    with op.batch_alter_table('items', schema=None) as batch_op:
        batch_op.drop_index('ix_items_results', postgresql_where=sa.text('result_number IS NOT NULL'), sqlite_where=sa.text('result_number IS NOT NULL'))
        batch_op.drop_index('ix_items_leased', postgresql_where=sa.text("state = 'running'"), sqlite_where=sa.text("state = 'running'"))
        batch_op.drop_index('ix_items_due', postgresql_where=sa.text("state = 'queued'"), sqlite_where=sa.text("state = 'queued'"))

    op.drop_table('items')
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index('ix_jobs_unwritten', postgresql_where=sa.text('finished_at IS NOT NULL AND results_key IS NULL'), sqlite_where=sa.text('finished_at IS NOT NULL AND results_key IS NULL'))
        batch_op.drop_index('ix_jobs_spooled', postgresql_where=sa.text('spool_key IS NOT NULL'), sqlite_where=sa.text('spool_key IS NOT NULL'))
        batch_op.drop_index('ix_jobs_owner_id_id')
        batch_op.drop_index('ix_jobs_open', postgresql_where=sa.text('finished_at IS NULL'), sqlite_where=sa.text('finished_at IS NULL'))

    op.drop_table('jobs')
    op.drop_table('grants')
    op.drop_table('blobs')
    op.drop_table('api_keys')
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_sessions_worker'))
        batch_op.drop_index(batch_op.f('ix_sessions_alive_until'))

    op.drop_table('sessions')
    op.drop_table('owners')
    op.drop_table('models')

