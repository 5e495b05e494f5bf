"""Looking at the files of a log, byte by byte."""

from pathlib import Path
from typing import NamedTuple

from stui_sessions.storage.local import segments
from stui_sessions.storage.local.entry import HEADER_SIZE


class Place(NamedTuple):
    """Where an entry is."""

    number: int
    path: Path
    offset: int
    size: int
    synced: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def files_of(database: Path) -> list[Path]:
    """The segments of a database's log, in their order."""
    directory = segments.directory_of(database)
    return [segments.path_of(directory, ordinal) for ordinal in segments.ordinals(directory)]


def entries_of(database: Path) -> list[Place]:
    """All entries, in their order."""
    found = []
    for path in files_of(database):
        label = segments.label_of(path)
        assert label is not None
        with segments.Entries(path, label.log_id, label.ordinal) as entries:
            for header, offset, _ in entries.walk():
                found.append(Place(header.number, path, offset, HEADER_SIZE + header.length, header.synced))
    return found


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, count: int = 1) -> None:
    """Spoil some bytes of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(count)
    overwrite(path, offset, bytes(byte ^ 0x5A for byte in data))


def contents(directory: Path) -> dict[str, bytes]:
    """All files below; the lock and SQLite's shared memory are no content."""
    found = (p for p in directory.rglob("*") if p.is_file() and not p.name.endswith(("-shm", ".lock", "-wal")))
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}
