"""One server per database: an advisory lock on a file beside it."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from stui_sessions.errors import StartError


class FileLock:
    """An exclusive `flock` on `path`, held until `release` or the end of the process.

    `flock` and not `fcntl.lockf`: it belongs to the open file, so a second server
    in the same process is kept out too, and it does not go away when some other
    descriptor of the file is closed.  The lock is what counts, not the file's
    content (the owner's process id, for the person who reads the message).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = False  # by us, just now
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock or raise StartError; it never waits."""
        while not self._try():
            pass

    def _try(self) -> bool:
        """False if the file was unlinked between our open and our lock: take the new one."""
        self.created = not self.path.exists()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._lock(fd)
            if not self._is_current(fd):
                os.close(fd)
                return False
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
            with contextlib.suppress(OSError):  # a full disk: the lock is what counts
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another server has this database open: {self.path} is locked by {_owner(fd)}. "
                "Stop that one first, or give this one another database"
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise StartError(
                    f"the file system of {self.path} has no file locks ({error.strerror}): "
                    "put the database on a local disk"
                ) from error
            raise

    def _is_current(self, fd: int) -> bool:
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back.  The file stays, unless we made it and the start was refused."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if remove and self.created:
                os.unlink(self.path)
            else:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _owner(fd: int) -> str:
    text = os.pread(fd, 32, 0).strip()
    return f"process {int(text)}" if text.isdigit() else "another process"
