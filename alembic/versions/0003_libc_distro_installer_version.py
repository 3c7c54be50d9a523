"""Breakdowns by C library, distribution, and version of the installer"""

from app.db.migrations import add_breakdown

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("libc", "distro", "installer_version"):
        add_breakdown(name)
