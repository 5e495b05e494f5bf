"""Copies of the store: one at a time, read in parts, dropped when nobody reads them."""

import asyncio
import hashlib
import threading
from base64 import b64decode
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.commands.operating import ReadBackupParams, ReadBackupResult
from stui_sessions.commands.shared import NoParams
from stui_sessions.domain.caller import Caller
from stui_sessions.engine import backups as module
from stui_sessions.engine.backups import IDLE_SECONDS, Backups, _Copy
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.storage.memory import MemoryStore
from tests.engine.desk import Desk, StoreGate
from tests.engine.nodes import Common, NodeStore

CONTENT = bytes(range(256)) * 1000


class CopyingStore(MemoryStore):
    """Copies are CONTENT, made when the gate is open.  One that is cancelled is gone when `gone` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = StoreGate()
        self.gone = asyncio.Event()
        self.gone.set()

    async def copy(self, path: Path) -> None:
        try:
            await self.gate.wait(path)
        except asyncio.CancelledError:
            await self.gone.wait()
            raise
        path.write_bytes(CONTENT)  # noqa: ASYNC240 - at once, so that the tests know when


class SlowCopy(_Copy):
    """Opens its file, and reads from it, when it is told to."""

    made_ones: list["SlowCopy"]
    may_open: threading.Event
    may_read: dict[int, threading.Event]
    """By offsets: those that have to wait."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made_ones.append(self)

    def _open(self) -> None:
        assert self.may_open.wait(10)
        super()._open()

    def read(self, offset: int) -> ReadBackupResult:
        if offset in self.may_read:
            assert self.may_read[offset].wait(10)
        return super().read(offset)


class Bench:
    """Backups, and the connections that ask for them."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk = desk
        self.store = CopyingStore()
        self.connected = {1, 2, 3}
        self.backups = Backups(self.store, directory / "s.db", self.connected.__contains__, desk.log)

    def begin(self, connection: int = 1) -> str:
        name: str = self.desk.run(self.beginning(connection))
        return name

    async def beginning(self, connection: int = 1) -> str:
        return (await self.backups.begin(NoParams(), Caller("local", connection=connection))).backup_id

    def reading(self, name: str, offset: int = 0, connection: int = 1) -> Coroutine[Any, Any, ReadBackupResult]:
        return self.backups.read(ReadBackupParams(name, offset), Caller("local", connection=connection))

    def part(self, name: str, offset: int = 0, connection: int = 1) -> ReadBackupResult:
        result: ReadBackupResult = self.desk.run(self.reading(name, offset, connection))
        return result

    def start(self, job: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = self.desk.loop.create_task(job)
        self.desk.settle()
        return task

    def refusal(self, job: Coroutine[Any, Any, Any]) -> str:
        with pytest.raises(Refusal) as caught:
            self.desk.run(job)
        return caught.value.code


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """In the end, no file and no descriptor may be left of any copy."""
    monkeypatch.setattr(module, "PART_BYTES", 100_000)
    monkeypatch.setattr(module, "_Copy", SlowCopy)
    SlowCopy.made_ones, SlowCopy.may_open, SlowCopy.may_read = [], threading.Event(), {}
    SlowCopy.may_open.set()
    with Desk() as desk:
        bench = Bench(desk, tmp_path)
        yield bench
        assert bench.backups._copy is None
        for copy in SlowCopy.made_ones:
            assert copy.made.done()
            assert copy._fd == -1
        assert list(tmp_path.iterdir()) == []


def test_all_parts_are_the_copy(bench: Bench) -> None:
    name = bench.begin()
    data, offset, sizes = b"", 0, []
    while True:
        answer = bench.part(name, offset)
        sizes.append(len(b64decode(answer.data)))
        data += b64decode(answer.data)
        if answer.next_offset is None:
            break
        offset = answer.next_offset
    assert sizes == [100_000, 100_000, 56_000]
    assert data == CONTENT
    assert (answer.size, answer.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert bench.desk.log.events == ["backup.done"]
    assert bench.refusal(bench.reading(name)) == "backup_not_found"  # the last part ends it
    bench.part(bench.begin(), len(CONTENT))  # and another one can begin


def test_one_copy_at_a_time(bench: Bench) -> None:
    bench.store.gate.closed = True
    name = bench.begin()
    assert bench.refusal(bench.beginning(1)) == "backup_in_progress"
    assert bench.refusal(bench.beginning(2)) == "backup_in_progress"
    assert bench.refusal(bench.reading("0" * 32)) == "backup_not_found"
    reading = bench.start(bench.reading(name))
    assert not reading.done()  # it waits until the copy is made
    bench.store.gate.let_go()
    assert bench.desk.run(reading).next_offset == 100_000
    bench.desk.run(bench.backups.close())


def test_nothing_on_disk_is_nothing_to_copy(bench: Bench) -> None:
    nowhere = Backups(MemoryStore(), None, lambda connection: True, bench.desk.log)
    assert bench.refusal(nowhere.begin(NoParams(), Caller("local"))) == "backup_unavailable"


def test_what_is_in_postgresql_is_copied_by_its_own_tools(bench: Bench) -> None:
    shared = Backups(NodeStore(Common()), None, lambda connection: True, bench.desk.log)
    with pytest.raises(Refusal, match="pg_basebackup or pg_dump"):
        bench.desk.run(shared.begin(NoParams(), Caller("local")))


# -- copies that nobody wants any more


def test_a_copy_that_nobody_reads_is_dropped(bench: Bench) -> None:
    name = bench.begin()
    bench.desk.advance(IDLE_SECONDS - 1)
    bench.part(name)  # which gives it as long again
    bench.desk.advance(IDLE_SECONDS - 1)
    bench.part(name)
    bench.desk.advance(IDLE_SECONDS)
    assert bench.refusal(bench.reading(name)) == "backup_not_found"


def test_one_that_nobody_has_asked_for_is_dropped_while_it_is_made(bench: Bench) -> None:
    bench.store.gate.closed = True
    bench.begin()
    bench.desk.advance(IDLE_SECONDS)
    assert bench.store.gate.waiting == []


def test_who_waits_for_a_copy_to_be_made_keeps_it(bench: Bench) -> None:
    bench.store.gate.closed = True
    reading = bench.start(bench.reading(bench.begin()))
    bench.desk.advance(10 * IDLE_SECONDS)
    bench.store.gate.let_go()
    assert bench.desk.run(reading).next_offset == 100_000
    bench.desk.run(bench.backups.close())


def test_one_whose_connection_is_gone_is_replaced(bench: Bench) -> None:
    bench.store.gate.closed = True
    first = bench.begin(1)
    bench.desk.settle()
    bench.connected.remove(1)
    bench.store.gate.closed = False
    second = bench.begin(2)
    assert bench.store.gate.waiting == []
    assert bench.refusal(bench.reading(first)) == "backup_not_found"
    assert bench.part(second, connection=2).next_offset == 100_000
    bench.desk.run(bench.backups.close())


def test_a_copy_belongs_to_who_has_read_it_last(bench: Bench) -> None:
    name = bench.begin(1)
    bench.part(name, connection=2)
    bench.connected.remove(1)
    assert bench.refusal(bench.beginning(3)) == "backup_in_progress"
    bench.connected.remove(2)
    bench.part(bench.begin(3), len(CONTENT))


def test_of_two_who_replace_a_copy_at_once_one_gets_another(bench: Bench) -> None:
    bench.store.gate.closed = True
    bench.begin(1)
    bench.desk.settle()
    bench.connected.remove(1)
    bench.store.gone.clear()
    both = [bench.start(bench.beginning(connection)) for connection in (2, 3)]
    bench.store.gone.set()
    bench.store.gate.closed = False
    bench.desk.settle()
    (got,) = [task.result() for task in both if task.exception() is None]
    (refused,) = [error for task in both if (error := task.exception()) is not None]
    assert isinstance(refused, Refusal)
    assert refused.code == "backup_in_progress"
    bench.part(got, len(CONTENT))


# -- failures


def test_a_copy_that_fails_is_told_and_makes_room(bench: Bench) -> None:
    bench.store.gate.error = StorageError("the disk is full")
    assert bench.refusal(bench.reading(bench.begin())) == "backup_unavailable"
    assert bench.desk.log.events == ["backup.failed"]
    bench.store.gate.error = None
    bench.part(bench.begin(), len(CONTENT))


def test_a_copy_that_failed_before_anybody_asked_is_told_to_who_asks(bench: Bench) -> None:
    bench.store.gate.error = StorageError("the disk is full")
    name = bench.begin()
    bench.desk.settle()
    assert bench.refusal(bench.reading(name)) == "backup_unavailable"


def test_a_part_that_cannot_be_read_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SlowCopy, offset: int) -> ReadBackupResult:
        raise OSError("an I/O error")

    name = bench.begin()
    with monkeypatch.context() as patch:
        patch.setattr(SlowCopy, "read", broken)
        assert bench.refusal(bench.reading(name)) == "backup_unavailable"
    bench.part(bench.begin(), len(CONTENT))


def test_a_file_that_cannot_be_read_leaves_nothing_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    closed: list[int] = []
    real_open, real_close = module.os.open, module.os.close

    def note_open(*arguments: Any) -> int:
        opened.append(real_open(*arguments))
        return opened[-1]

    def note_close(fd: int) -> None:
        closed.append(fd)
        real_close(fd)

    def broken(*arguments: Any) -> bytes:
        raise OSError("an I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "open", note_open)
        patch.setattr(module.os, "close", note_close)
        patch.setattr(module.os, "pread", broken)
        assert bench.refusal(bench.reading(bench.begin())) == "backup_unavailable"
    assert len(opened) == 1
    assert opened == closed


# -- several readers


def test_reads_of_two_do_not_disturb_each_other(bench: Bench) -> None:
    """The last part ends the copy, and who reads another part of it still gets that one."""
    name = bench.begin()
    bench.part(name)
    SlowCopy.may_read[0] = threading.Event()
    first, last = [bench.start(bench.reading(name, offset)) for offset in (0, 200_000)]
    assert bench.desk.run(last).next_offset is None
    SlowCopy.may_read[0].set()
    assert b64decode(bench.desk.run(first).data) == CONTENT[:100_000]
    assert bench.part(bench.begin()).next_offset == 100_000
    bench.desk.run(bench.backups.close())


def test_a_copy_that_two_read_is_dropped_a_minute_after_the_last_of_them(bench: Bench) -> None:
    name = bench.begin()
    SlowCopy.may_read[0] = threading.Event()
    slow = bench.start(bench.reading(name))
    bench.part(name, 100_000)
    bench.desk.advance(IDLE_SECONDS / 2)
    SlowCopy.may_read[0].set()
    bench.desk.run(slow)
    bench.desk.advance(IDLE_SECONDS * 3 / 4)
    bench.part(name, 200_000)


@pytest.mark.parametrize("offset", [0, 200_000])
def test_a_part_that_is_being_read_when_the_copy_is_replaced_is_read_to_its_end(bench: Bench, offset: int) -> None:
    """The number of its descriptor must not be given to another file meanwhile; nor does it end the other copy."""
    name = bench.begin(1)
    bench.part(name)
    SlowCopy.may_read[offset] = threading.Event()
    reading = bench.start(bench.reading(name, offset))
    bench.connected.remove(1)
    second = bench.begin(2)
    assert SlowCopy.made_ones[0]._fd >= 0
    SlowCopy.may_read[offset].set()
    assert b64decode(bench.desk.run(reading).data) == CONTENT[offset : offset + 100_000]
    assert SlowCopy.made_ones[0]._fd == -1
    bench.part(second, len(CONTENT), connection=2)


# -- starting and stopping


def test_what_was_left_behind_is_removed(bench: Bench, tmp_path: Path) -> None:
    left, other = tmp_path / ".s.db.backup-00-journal", tmp_path / "s.db.backup"
    left.touch()
    other.touch()
    Backups(bench.store, tmp_path / "s.db", lambda connection: True, bench.desk.log)
    assert not left.exists()
    other.unlink()


def test_a_stop_ends_a_copy_that_is_being_made_and_waits_until_it_is_gone(bench: Bench) -> None:
    bench.store.gate.closed = True
    reading = bench.start(bench.reading(bench.begin()))
    bench.store.gone.clear()
    closing = bench.start(bench.backups.close())
    assert not closing.done()
    bench.store.gone.set()
    bench.desk.run(closing)
    assert bench.refusal(reading) == "backup_not_found"  # type: ignore[arg-type]


def test_a_stop_waits_for_the_file_that_is_being_opened(bench: Bench) -> None:
    SlowCopy.may_open.clear()
    bench.begin()
    bench.desk.settle()
    closing = bench.start(bench.backups.close())
    assert not closing.done()
    SlowCopy.may_open.set()
    bench.desk.run(closing)


def test_after_a_stop_no_copy_is_begun(bench: Bench) -> None:
    """Who has asked for one before is answered while the server stops."""
    for _ in range(2):
        bench.desk.run(bench.backups.close())
        assert bench.refusal(bench.beginning()) == "backup_unavailable"


def test_nor_by_one_who_waits_for_another_to_be_gone(bench: Bench) -> None:
    bench.store.gate.closed = True
    bench.begin(1)
    bench.desk.settle()
    bench.connected.remove(1)
    bench.store.gone.clear()
    bench.start(bench.beginning(2))
    late = bench.start(bench.beginning(3))
    closing = bench.start(bench.backups.close())
    bench.store.gone.set()
    bench.desk.run(closing)
    assert bench.refusal(late) == "backup_unavailable"  # type: ignore[arg-type]
