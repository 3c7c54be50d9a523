"""Breakdown by file type"""

from app.db.breakdown_columns import add_breakdown

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    add_breakdown("file_type")
