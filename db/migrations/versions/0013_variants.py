"""Jobs are bound to the variant of their model that answered first"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("variant", sa.Text()))
    op.add_column("jobs", sa.Column("variant", sa.Text()))
    # Jobs of an older release were promised nothing, and go on.
    op.add_column(
        "jobs", sa.Column("model_changed", sa.Text(), nullable=False, server_default="continue")
    )


def downgrade() -> None:
    op.drop_column("jobs", "model_changed")
    op.drop_column("jobs", "variant")
    op.drop_column("sessions", "variant")
