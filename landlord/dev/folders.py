"""Where a component's files go when another user runs it, or when a path must be short.

The parents of a folder are never touched: a launcher that makes somebody's home readable would be worse than none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landlord.dev.processes import LauncherError

SHARED = Path("/var/tmp")  # noqa: S108 - what is put there is private, and checked to be ours
"""Reachable by every user, and kept over a reboot."""
RUNTIME = Path("/tmp")  # noqa: S108 - the same; TMPDIR may be too long for a socket


def digest(path: Path) -> str:
    """A short name that stands for ``path``."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def identity(state: Path) -> str:
    """What stands for the state folder in names elsewhere, and goes with it when it is renamed.

    It used to be the path's digest: a state that was started before goes on with that, as what it has made bears it.
    """
    file = existing(state) / "identity"
    if not file.exists():
        fresh = file.with_name(".identity.new")
        fresh.write_text(digest(state) if (state / "logs").exists() else secrets.token_hex(6))
        fresh.replace(file)
    return file.read_text()


def cache(name: str) -> Path:
    """The folder ``name`` in the user's cache, which need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "landlord" / name


@contextmanager
def using(path: Path) -> Iterator[None]:
    """What is done at ``path`` or below. Raises :class:`LauncherError` where the system refuses it (``OSError``)."""
    try:
        yield
    except OSError as error:
        raise LauncherError(f"cannot use {path}: {error.strerror or error}") from error


def existing(path: Path) -> Path:
    """``path``, made if need be, absolute and without links. Raises :class:`LauncherError`."""
    with using(path):
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve()


def private(path: Path, *, user: str | None = None) -> Path:
    """Make ``path`` (its parents must exist) for nobody but ``user``, by default us.

    Raises :class:`LauncherError` if somebody else's file or folder has that name.
    """
    uid, gid = os.getuid(), os.getgid()
    owners = {uid}
    if user is not None:
        entry = pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
        owners.add(uid)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise LauncherError(f"{path} is there already and belongs to somebody else")
    if found.st_uid != uid:
        os.chown(path, uid, gid, follow_symlinks=False)
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


@contextmanager
def held(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` for as long as we live. Raises :class:`LauncherError` if another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LauncherError(f"{what} is in use by another process (it holds {path})") from None
        yield
    finally:
        os.close(descriptor)
