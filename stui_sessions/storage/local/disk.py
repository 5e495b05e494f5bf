"""What the log asks of the file system, in one place, so that tests can have it fail."""

import os
import time
from pathlib import Path

from stui_sessions.storage import files

_ZEROS = bytes(2**20)


class Disk:
    """The file system.  Every method raises OSError."""

    clock = staticmethod(time.perf_counter)
    """Seconds: how long a sync takes decides who waits for it."""

    def write_at(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data`."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):  # a signal, or a disk that is nearly full
            with memoryview(data) as view:
                done += os.pwrite(fd, view[done:], offset + done)

    def sync(self, fd: int) -> None:
        """Have what was written to a file of unchanged size on the disk."""
        os.fdatasync(fd)

    def make(self, path: Path, size: int) -> None:
        """Make a file full of zeros, mode 0600, on the disk with all of its content.  None is left if that fails."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)  # whatever the umask
            for offset in range(0, size, len(_ZEROS)):
                self.write_at(fd, _ZEROS[: size - offset], offset)
            os.fsync(fd)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, durably."""
        os.rename(old, new)
        files.sync_directory(new.parent)

    def free(self, directory: Path) -> int:
        """Bytes of room on the disk that a directory is on."""
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize

    def remove(self, path: Path) -> None:
        """Remove a file; not durably."""
        os.unlink(path)
