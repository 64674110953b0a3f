"""The lock of a run directory: one controller writes at a time, on a file system with reliable locks."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import weakref
from pathlib import Path

from lightning_evo.archive.errors import ArchiveError, translated_file
from lightning_evo.utils.text import printable

__all__ = ["DirectoryLock", "network_file_system", "writer_lives"]

LOCK = "lock"
"""The file in a run's directory whose lock the writing process holds; it names that process."""

_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|lustre|gpfs|beegfs(_nodev)?|ceph|afs|9p|pvfs2|orangefs|panfs|glusterfs|ocfs2|gfs2"
    r"|fuse\.(sshfs|s3fs|glusterfs|ceph.*|gcsfuse|rclone|juicefs)"
)

_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


class DirectoryLock:
    """Holds ``<directory>/lock`` until :meth:`release`, or until the process ends however it ends.

    Child processes don't inherit the lock: a worker that outlives its controller doesn't keep the next one out.

    Args:
        directory: The run's directory, which exists.

    Raises:
        ArchiveError: If another process holds it (named by its process id), or the directory can't be written.
        DiskFull: If there is no space even for the name of the process.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        try:
            # Not blocking, where it is a named pipe.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path, flags, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ArchiveError(f"{self.path}: is a symbolic link, which is not followed; remove it") from error
            raise ArchiveError(
                f"{directory}: cannot write here ({error.strerror}); choose a writable directory"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "an unknown process"
            os.close(descriptor)
            raise ArchiveError(
                f"{directory}: another search is writing here ({holder}). Wait for it or stop it; reading "
                "(leaderboard) still works"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise ArchiveError(
                f"{self.path}: this file system offers no locks ({error.strerror}); use a local directory"
            ) from error
        if not _is_lock(descriptor):
            os.close(descriptor)
            raise ArchiveError(f"{self.path}: is another file, not the lock of a search; move it away")
        self._descriptor: int | None = descriptor
        _held.add(self)
        try:
            with translated_file(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {_host()}\n".encode(), 0)
        except ArchiveError:
            self.release()
            raise

    def release(self) -> None:
        """Let another process write; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_lock(descriptor: int) -> bool:
    """Whether an open file may be overwritten as the lock: it could be somebody's hard link to a file of the user's."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    content = os.pread(descriptor, 300, 0)
    return not content.strip() or (len(content) < 300 and content.startswith(b"process "))


def _forget_in_child() -> None:
    # A forked child shares the open file, and with it the lock: closing its copy leaves the parent's lock as it is.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)


def writer_lives(directory: Path) -> bool | None:
    """Whether the process that holds the directory's lock lives; ``None`` where that can't be known here."""
    try:
        lock = directory / LOCK
        holder = re.match(r"process (\d+) on (.+)", lock.read_text(encoding="utf-8", errors="replace"))
        inode = lock.stat().st_ino
    except OSError:
        return None
    if holder is None or holder[2].strip() != _host():
        return None
    try:
        # The file outlives the lock, and process numbers are used again: so the lock itself, where the system shows it.
        held = Path("/proc/locks").read_text()
    except OSError:
        return _exists(int(holder[1]))
    return bool(re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+\d+\s+\S+:{inode}\s", held)) and _exists(int(holder[1]))


def _host() -> str:
    return printable(socket.gethostname())


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def network_file_system(directory: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the network file system that ``directory`` lies on (``nfs4``, ``cifs``); ``None`` if it is local.

    Where ``mounts`` doesn't exist (not Linux), nothing is known and the answer is ``None``.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return None
    directory = directory.resolve()
    depth, found = -1, ""
    for line in lines:
        if line.count(" ") < 2:
            continue
        _, point, kind, *_ = line.split(" ")
        at = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))
        # Later mounts cover earlier ones at the same location.
        if directory.is_relative_to(at) and len(at.parts) >= depth:
            depth, found = len(at.parts), kind
    return found if _NETWORK.fullmatch(found) else None
