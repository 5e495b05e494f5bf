"""The database as files: made with tight permissions, looked at before SQLite may touch them.

Everything here that refuses leaves what it found as it was.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Literal

from stui_sessions.errors import StartError
from stui_sessions.storage.border import Log

APPLICATION_ID = 0x53545549  # "STUI"; bytes 68..71 of the header
MAGIC = b"SQLite format 3\0"
HEADER_SIZE = 100

FOUND_DAMAGED = "It is left as it is and never overwritten: restore a backup, or set the file aside with its -wal file"

FileKind = Literal["new", "unfinished", "ours"]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def beside(path: Path, suffix: str) -> Path:
    """`<path><suffix>`: SQLite's companions `-wal`, `-shm`, `-journal`, and our `.lock`."""
    return path.with_name(path.name + suffix)


def refuse_other_kinds(path: Path) -> None:
    """StartError if there is something at `path` that is no regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise StartError(f"{path} is {name}, not a file: name a database file, for example {_example(path, mode)}")


def _example(path: Path, mode: int) -> Path:
    return path / "sessions.db" if stat.S_ISDIR(mode) else path.with_name("sessions.db")


def make_parents(path: Path) -> None:
    """Make the missing directories above `path`, mode 0700; existing ones are left as they are."""
    missing = []
    directory = path.parent
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            directory.mkdir(mode=0o700)
        sync_directory(directory.parent)


def make_file(path: Path) -> None:
    """Make an empty file, mode 0600, if there is none.  Durable when it returns."""
    with contextlib.suppress(FileExistsError):
        make_new(path)


def make_new(path: Path) -> None:
    """Make an empty file, mode 0600; FileExistsError if there is something.  Durable when it returns."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask
    finally:
        os.close(fd)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Have a file on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside(path, suffix).unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make new names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def tighten(path: Path, log: Log) -> None:
    """Set mode 0600 on the database and its companions, where they differ."""
    for file in (path, beside(path, "-wal"), beside(path, "-shm"), beside(path, "-journal")):
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode != 0o600:
                file.chmod(0o600)
                log.warning("database_permissions_tightened", file=str(file), was=f"{mode:04o}", now="0600")
        except FileNotFoundError:
            continue
        except PermissionError:  # another user's file that we may write: their decision
            log.warning("database_permissions_not_ours", file=str(file))


def inspect_header(path: Path, newest: int) -> FileKind:
    """What is in the file, judged by its first bytes; StartError if it must not be used.

    `newest` is the newest schema version that is known.

    Only while no connection of this process has the file open: closing any
    descriptor of a file drops all POSIX locks that the process has on it.
    """
    header, length = _read_header(path)
    unfinished = size(beside(path, "-journal")) > 0
    if length == 0:
        refuse_orphan_wal(path)
        return "new"
    if unfinished and not header.strip(b"\0"):
        return "unfinished"  # a creation that was cut off; SQLite rolls it back
    if not (header.startswith(MAGIC) or MAGIC.startswith(header)):
        raise StartError(f"{path} is not an SQLite database and is left as it is: name another file")
    if length < HEADER_SIZE:
        raise StartError(f"{path} is damaged: {length} bytes are too few for a database. {FOUND_DAMAGED}")
    application = int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        raise StartError(
            f"{path} is an SQLite database of another program (application id {application:#010x}, "
            f"ours is {APPLICATION_ID:#010x}) and is left as it is: name another file"
        )
    # Before SQLite opens it: that makes files beside a database which is left to a newer server.
    refuse_newer(path, int.from_bytes(header[60:64], "big"), newest)
    return "unfinished" if unfinished else "ours"


def refuse_newer(path: Path, version: int, newest: int) -> None:
    """StartError if the tables are of a version that is not known."""
    if version > newest:
        raise StartError(
            f"{path} has schema version {version}, and this server knows up to version {newest}: "
            "use the server version that wrote it, or name another file"
        )


def refuse_orphan_wal(path: Path) -> None:
    """StartError if a missing or empty database left a write-ahead log behind."""
    wal = beside(path, "-wal")
    if size(wal) > 0:  # SQLite would delete it, and the committed changes in it
        raise StartError(
            f"{path} is missing or empty, but its write-ahead log {wal.name} is there: restore the database "
            "file that belongs to it, or set the log aside to begin anew"
        )


def _read_header(path: Path) -> tuple[bytes, int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)  # for writing too: learn now if we may
    try:
        return os.pread(fd, HEADER_SIZE, 0), os.fstat(fd).st_size
    finally:
        os.close(fd)


def size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
