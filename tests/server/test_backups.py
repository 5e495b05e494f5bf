"""Copies of the store: one at a time, read in parts, dropped when nobody reads them."""

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.errors import Refusal, StorageError
from stui_sessions.protocol.results import ReadBackupResult
from stui_sessions.server import backups as module
from stui_sessions.server.backups import Backups
from stui_sessions.sessions.finding import BackupPart
from stui_sessions.storage.memory import MemoryStore
from tests.server.room import Gate, Log, settle

CONTENT = bytes(range(256)) * 1000


class CopyingStore(MemoryStore):
    """Copies are CONTENT, made when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    async def copy(self, path: Path) -> None:
        await self.gate.passing(path)
        await asyncio.to_thread(path.write_bytes, CONTENT)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store() -> CopyingStore:
    return CopyingStore()


@pytest.fixture
def backups(store: CopyingStore, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backups]:
    monkeypatch.setattr(module, "PART_BYTES", 100_000)
    yield Backups(store, tmp_path / "s.db", log)
    assert list(tmp_path.iterdir()) == []  # nothing is left of any copy


async def part(backups: Backups, name: str, offset: int = 0) -> ReadBackupResult:
    answer = await backups.part(BackupPart(name, offset))
    assert isinstance(answer, ReadBackupResult), answer
    return answer


async def refused(backups: Backups, name: str) -> str:
    answer = await backups.part(BackupPart(name, 0))
    assert isinstance(answer, Refusal)
    return answer.code


def refusal_of(backups: Backups) -> str:
    with pytest.raises(Refusal) as caught:
        backups.begin()
    return caught.value.code


async def test_all_parts_are_the_copy(backups: Backups) -> None:
    name = backups.begin()
    data, offset = b"", 0
    while True:
        answer = await part(backups, name, offset)
        data += b64decode(answer.data)
        if answer.next_offset is None:
            break
        offset = answer.next_offset
    assert data == CONTENT
    assert (answer.size, answer.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await refused(backups, name) == "backup_not_found"  # the last part ends it
    await part(backups, backups.begin(), len(CONTENT))  # and another one can begin


async def test_one_copy_at_a_time(backups: Backups, store: CopyingStore) -> None:
    store.gate.close()
    name = backups.begin()
    assert refusal_of(backups) == "backup_in_progress"
    assert await refused(backups, "0" * 32) == "backup_not_found"
    reading = asyncio.create_task(part(backups, name))
    await settle()
    assert not reading.done()  # it waits until the copy is made
    store.gate.open.set()
    assert (await reading).next_offset == 100_000
    await backups.close()


async def test_nothing_on_disk_is_nothing_to_copy(log: Log) -> None:
    assert refusal_of(Backups(MemoryStore(), None, log)) == "backup_unavailable"


async def test_a_copy_that_nobody_reads_is_dropped(backups: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[tuple[float, Any]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, call: timers.append((delay, call)) or _Timer(timers))
    name = backups.begin()
    await part(backups, name)
    ((delay, drop),) = timers  # the one of the beginning was cancelled by the read
    assert delay == 60
    monkeypatch.undo()
    drop()
    assert await refused(backups, name) == "backup_not_found"


class _Timer:
    """The handle of the timer that was set last."""

    def __init__(self, timers: list[Any]) -> None:
        self._timers, self._timer = timers, timers[-1]

    def cancel(self) -> None:
        if self._timer in self._timers:
            self._timers.remove(self._timer)


async def test_a_copy_that_fails_is_told_and_makes_room(backups: Backups, store: CopyingStore, log: Log) -> None:
    store.gate.error = StorageError("the disk is full")
    assert await refused(backups, backups.begin()) == "backup_unavailable"
    assert log.events == ["backup.failed"]
    store.gate.error = None
    await part(backups, backups.begin(), len(CONTENT))


async def test_reads_of_two_do_not_disturb_each_other(backups: Backups) -> None:
    """The last part ends the copy, and who reads another part of it still gets that one."""
    name = backups.begin()
    await part(backups, name)
    last, first = await asyncio.gather(part(backups, name, 200_000), part(backups, name))
    assert b64decode(first.data) == CONTENT[:100_000]
    assert last.next_offset is None
    later = backups.begin()
    assert (await part(backups, later)).next_offset == 100_000
    await backups.close()


def test_what_was_left_behind_is_removed(store: CopyingStore, log: Log, tmp_path: Path) -> None:
    left, other = tmp_path / ".s.db.backup-00-journal", tmp_path / "s.db.backup"
    left.touch()
    other.touch()
    Backups(store, tmp_path / "s.db", log)
    assert other.exists()
    assert not left.exists()


async def test_a_stop_waits_for_the_copy(backups: Backups, store: CopyingStore) -> None:
    store.gate.close()
    backups.begin()
    await settle()
    closing = asyncio.create_task(backups.close())
    await settle()
    assert not closing.done()
    store.gate.open.set()
    await closing
