"""The files of the log: `<ordinal>.log` in the directory `NAME.log` beside the database.

A segment is a header and, from START on, entries without gaps.  It is made full-size
ahead of its use, so that syncing an entry has no metadata to write, and once it is
out of use it lies there as a spare for the next one.  A file has its name only when
its header is on the disk.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from msgspec import Struct

from stui_sessions.storage import files
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.entry import HEADER_SIZE, Header, is_whole, mark_of, read_header

START = 4096
"""Where the entries begin."""

SMALLEST = 2**20
LARGEST = 16 * 2**20
"""They begin small and double: a server with little to do takes little room."""

FORM = 1
"""Of the segment's header."""

WINDOW = 2**20
"""Bytes read at once."""

_MAGIC = b"STLS"
_HEADER = struct.Struct("<4s16sIHHQQI")
_CHECKED = _HEADER.size - 4

SPARE = "spare"
NEW = "new"
CLOSED = "closed"


class Segment(Struct):
    """A file of the log, and what is known of its entries."""

    path: Path
    ordinal: int
    size: int
    first: int = 0  # the number of its first entry; 0 while it has none
    first_at: int = 0  # ms; when that was written
    last: int = 0  # of its last entry; 0 while that is not known
    end: int = START  # behind the last entry that is known
    index: list[tuple[int, int]] = []  # numbers and offsets of some entries, about one in INDEX_STEP bytes

    def note(self, number: int, offset: int, end: int, at: int) -> None:
        """An entry is there, behind all others."""
        if not self.first:
            self.first, self.first_at = number, at
        if not self.index or offset - self.index[-1][1] >= INDEX_STEP:
            self.index.append((number, offset))
        self.last, self.end = number, end


INDEX_STEP = 64 * 1024


def directory_of(database: Path) -> Path:
    """Where the log of a database is."""
    return files.beside(database, ".log")


def path_of(directory: Path, ordinal: int) -> Path:
    """The file of a segment."""
    return directory / f"{ordinal:010d}.log"


def ordinals(directory: Path) -> list[int]:
    """The segments that are there, in their order; nothing if there is no directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(stem) for name in names if (stem := name.removesuffix(".log")) != name and stem.isdecimal())


class Label(NamedTuple):
    """A segment's header."""

    log_id: bytes
    ordinal: int
    since: int  # commits up to here were durable when it was made, in segments before it
    size: int  # of the file

    def encode(self) -> bytes:
        """Its bytes."""
        header = _HEADER.pack(_MAGIC, self.log_id, self.ordinal, FORM, 0, self.since, self.size, 0)
        return header[:_CHECKED] + crc32(header[:_CHECKED]).to_bytes(4, "little")


def label_of(path: Path) -> Label | None:
    """What a segment's header says; None if it is not what was written."""
    with _opened(path) as fd:
        header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return None
    magic, log_id, ordinal, form, _reserved, since, size, crc = _HEADER.unpack(header)
    whole = magic == _MAGIC and crc == crc32(header[:_CHECKED]) and form == FORM
    return Label(log_id, ordinal, since, size) if whole else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def prepare(disk: Disk, directory: Path, label: Label) -> Segment:
    """Make a segment that is ready for use, from a spare one if there is one that is large enough.

    OSError if there is no room; nothing but a spare file is left then.
    """
    path = path_of(directory, label.ordinal)
    spare = next((s for s in _spares(directory) if s.stat().st_size >= label.size), None)
    if spare is None:
        remove_spares(disk, directory)
        spare = directory / NEW
        disk.make(spare, label.size)
    fd = os.open(spare, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        disk.write_at(fd, label._replace(size=size).encode(), 0)
        disk.sync(fd)
    finally:
        os.close(fd)
    disk.rename(spare, path)
    return Segment(path, label.ordinal, size)


def retire(disk: Disk, segment: Segment, keep: bool) -> None:
    """Take a segment out of use; `keep` it as a spare, or remove it."""
    if keep:
        disk.rename(segment.path, segment.path.with_name(f"{SPARE}-{segment.ordinal}"))
    else:
        disk.remove(segment.path)
        files.sync_directory(segment.path.parent)


def _spares(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{SPARE}-*"))


def has_room(disk: Disk, directory: Path, size: int) -> bool:
    """A segment of this size leaves as much room on the disk as it takes, or takes none."""
    spares = [spare.stat().st_size for spare in _spares(directory)]
    return max(spares, default=0) >= size or disk.free(directory) + sum(spares) >= 2 * size


def remove_spares(disk: Disk, directory: Path) -> None:
    """Have none."""
    for spare in _spares(directory):
        disk.remove(spare)


def spare_bytes(directory: Path) -> int:
    """What the spare files take."""
    return sum(map(files.size, _spares(directory)))


def note_closed(disk: Disk, directory: Path, closed: bool) -> None:
    """Have a note in the directory that the tables have it all, so that the log may be removed with the database."""
    note = directory / CLOSED
    if closed:
        disk.make(note, 1)
    elif note.exists():
        disk.remove(note)
    files.sync_directory(directory)


def make_directory(directory: Path) -> None:
    """Make the directory, mode 0700, if there is none.  Durable when it returns."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)  # whatever the umask
        files.sync_directory(directory.parent)


def remove_all(directory: Path) -> None:
    """Remove a log, but for what others have put into its directory."""
    if not directory.is_dir():
        return
    for path in [*directory.glob("*.log"), *_spares(directory), directory / NEW, directory / CLOSED]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        directory.rmdir()
    files.sync_directory(directory.parent)


class Entries:
    """Reads the entries of one segment, in its present use.  OSError if the file cannot be read.

    Synchronous, for a thread.  The file may be written meanwhile: what is not whole
    does not count.
    """

    def __init__(self, path: Path, log_id: bytes, ordinal: int, window: int = WINDOW) -> None:
        self.path = path
        self._size_read = window
        self._mark = mark_of(log_id, ordinal)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self._window = b""
        self._begin = 0

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        at = offset - self._begin
        if at < 0 or at + length > len(self._window):
            self._window = os.pread(self._fd, max(length, self._size_read), offset)
            self._begin, at = offset, 0
        return self._window[at : at + length]

    def forget(self) -> None:
        """Read anew what was read: it may have been written meanwhile."""
        self._window = b""

    def at(self, offset: int) -> tuple[Header, bytes] | None:
        """The whole entry there, None if there is none."""
        raw = self._read(offset, HEADER_SIZE)
        header = read_header(raw, self._mark)
        if header is None or header.length > self.size - offset - HEADER_SIZE:
            return None
        payload = self._read(offset + HEADER_SIZE, header.length)
        if len(payload) < header.length or not is_whole(raw, payload):
            return None
        return header, payload

    def walk(self, offset: int = START) -> Iterator[tuple[Header, int, bytes]]:
        """Entries without a gap from `offset` on, each with where it is."""
        while (found := self.at(offset)) is not None:
            header, payload = found
            yield header, offset, payload
            offset += HEADER_SIZE + header.length

    def find(self, number: int, offset: int) -> tuple[Header, int] | None:
        """The entry of a number, from `offset` on, by the headers alone: nothing is checked; and where it is."""
        while (header := read_header(self._read(offset, HEADER_SIZE), self._mark)) is not None:
            if header.number >= number:
                return (header, offset) if header.number == number else None
            offset += HEADER_SIZE + header.length
        return None

    def index(self) -> list[tuple[int, int]]:
        """Numbers and offsets of some entries, for `Segment.index`; by the headers alone."""
        found: list[tuple[int, int]] = []
        offset = START
        while (header := read_header(self._read(offset, HEADER_SIZE), self._mark)) is not None:
            if not found or offset - found[-1][1] >= INDEX_STEP:
                found.append((header.number, offset))
            offset += HEADER_SIZE + header.length
        return found

    def behind(self, offset: int) -> Iterator[Header]:
        """Whole entries that are somewhere from `offset` on, whatever is between them."""
        overlap = len(self._mark) - 1
        self.forget()
        while offset < self.size:
            window, place = os.pread(self._fd, WINDOW, offset), 0
            while (at := window.find(self._mark, place)) >= 0:
                found = self.at(offset + at)
                if found is not None:
                    yield found[0]
                place = at + (1 if found is None else HEADER_SIZE + found[0].length)
            offset += max(len(window) - overlap, place, 1)
