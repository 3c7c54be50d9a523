"""Breakdown by type of processor"""

from app.db.migrations import add_breakdown

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    add_breakdown("cpu")
