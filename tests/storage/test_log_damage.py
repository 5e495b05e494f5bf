"""Logs that are torn, damaged, truncated or missing: a torn end is none, everything else says where it is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from stui_sessions.domain.entities import session_key
from stui_sessions.errors import StartError
from stui_sessions.storage.local import segments
from stui_sessions.storage.local.entry import HEADER_SIZE, VERSION, encode_payload, mark_of, seal
from tests.storage.logs import contents, entries_of, files_of, flip, overwrite
from tests.storage.stores import LocalMaker, Scribe, leave

COMMITS = 13
"""Entries of 30 KB, but for the first: 1 to 3 are in the first segment, 4 to 7 in the second, 8 on in the
third; a fourth one is prepared."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SMALLEST", 2**16)
    monkeypatch.setattr(segments, "LARGEST", 2**20)


async def killed(local: LocalMaker, *, flushed: int = 0, commits: int = COMMITS) -> tuple[Path, Scribe]:
    """What a kill leaves of a database with some commits in several segments, `flushed` of them in the tables."""
    store = local.at(local.directory / "source" / "s.db")
    await store.open()
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    while scribe.last < commits:
        scribe.update(s, b'{"n":"%d%s"}' % (scribe.last, b"x" * 30_300), replaces=True)
        await scribe.commit()
        if scribe.last == flushed:
            await store.flush()
    path = local.directory / "killed" / "s.db"
    await leave(store, path)
    await store.close(clean=False)
    return path, scribe


@pytest.mark.parametrize("torn", [False, True])
async def test_a_file_of_another_log_is_never_replaced(local: LocalMaker, torn: bool) -> None:
    """It may be all that is left of its database."""
    path, _ = await killed(local, commits=3)
    other = local.at(local.directory / "other" / "s.db")
    await other.open()
    await Scribe(other).commit()
    if torn:
        last = entries_of(path)[-1]
        flip(last.path, last.offset + 100)
    place = segments.path_of(segments.directory_of(path), 2)
    shutil.copyfile(files_of(other.path)[0], place)
    before = place.read_bytes()
    await starts(local, path, 3 - torn)
    assert place.read_bytes() == before
    assert segments.path_of(segments.directory_of(path), 3) in files_of(path)


async def refused(local: LocalMaker, path: Path) -> str:
    """It does not start, says why, and leaves everything as it was."""
    before = contents(path.parent)
    with pytest.raises(StartError) as caught:
        await local.at(path).open()
    assert contents(path.parent) == before
    return str(caught.value)


async def starts(local: LocalMaker, path: Path, commit: int) -> None:
    """It starts with all commits up to `commit`, and goes on from there, across one more start."""
    for _ in range(2):
        store = local.at(path)
        assert (await store.open()).commit == commit
        scribe = Scribe(store, commit)
        scribe.create(commit + 100, client_id="")
        await scribe.commit()
        await scribe.check()
        commit += 1
        fresh = path.with_name(f"{commit}") / "s.db"
        await leave(store, fresh)
        await store.close(clean=False)
        path = fresh


async def test_the_log_is_as_these_tests_think(local: LocalMaker) -> None:
    path, _ = await killed(local)
    assert [e.number for e in entries_of(path)] == list(range(1, COMMITS + 1))
    assert [e.synced for e in entries_of(path)] == list(range(COMMITS))
    assert [e.number for e in entries_of(path) if e.offset == segments.START] == [1, 4, 8]
    assert len(files_of(path)) == 4
    await starts(local, path, COMMITS)


# The end.


@pytest.mark.parametrize("kept", [0, 1, 15, 51, 52, 60, 4096, 20_000, 30_000])
async def test_a_torn_end_is_none(local: LocalMaker, kept: int) -> None:
    path, _ = await killed(local)
    last = entries_of(path)[-1]
    overwrite(last.path, last.offset + kept, bytes(last.size - kept))
    await starts(local, path, COMMITS - 1)


async def test_a_flipped_byte_of_the_last_entry_is_a_torn_end(local: LocalMaker) -> None:
    path, _ = await killed(local)
    last = entries_of(path)[-1]
    flip(last.path, last.end - 3)
    await starts(local, path, COMMITS - 1)


async def test_a_torn_first_entry_of_a_segment(local: LocalMaker) -> None:
    path, _ = await killed(local, commits=8)
    last = entries_of(path)[-1]
    assert last.offset == segments.START
    overwrite(last.path, last.offset, bytes(last.size))
    await starts(local, path, 7)


async def test_an_end_that_was_durable_is_not_torn(local: LocalMaker) -> None:
    """The segment that was prepared after it knows of it."""
    path, _ = await killed(local)
    for entry in entries_of(path)[7:]:
        overwrite(entry.path, entry.offset, bytes(entry.size))
    assert "ends at commit 7, and went on to commit 12 at least" in await refused(local, path)


async def test_what_the_tables_have_need_not_be_in_the_log(local: LocalMaker) -> None:
    path, _ = await killed(local, flushed=5)
    for entry in entries_of(path)[:3]:
        flip(entry.path, entry.offset + 200)
    store = local.at(path)
    assert (await store.open()).commit == COMMITS


# Damage.


@pytest.mark.parametrize("number", [1, 2])
async def test_damage_of_an_only_segment(local: LocalMaker, number: int) -> None:
    path, _ = await killed(local, commits=3)
    for prepared in files_of(path)[1:]:  # it may know of the commits
        prepared.unlink()
    entry = entries_of(path)[number - 1]
    flip(entry.path, entry.offset + 100)
    assert f"commit {number} is missing at {entry.path}, offset {entry.offset}" in await refused(local, path)


def damaged_entry(number: int, offset: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        entry = entries_of(path)[number - 1]
        flip(entry.path, entry.offset + offset if offset >= 0 else entry.end + offset)

    return damage


def zeros(number: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        entry = entries_of(path)[number - 1]
        overwrite(entry.path, entry.offset, bytes(entry.size))

    return damage


def gone(place: int) -> Callable[[Path], None]:
    return lambda path: files_of(path)[place].unlink()


def cut(place: int, size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(files_of(path)[place], size)


def swapped(path: Path) -> None:
    first, second, *_ = files_of(path)
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)


def old_content(path: Path) -> None:
    """A segment as it was in its last use but one."""
    second = files_of(path)[1]
    label = segments.label_of(second)
    assert label is not None
    data = second.read_bytes().replace(mark_of(label.log_id, label.ordinal), mark_of(label.log_id, 77))
    second.write_bytes(data)


def another_log(path: Path) -> None:
    """All segments belong to another database."""
    for file in files_of(path):
        label = segments.label_of(file)
        assert label is not None
        overwrite(file, 0, label._replace(log_id=b"?" * 16).encode())


def newer_entry(path: Path) -> None:
    last = entries_of(path)[-1]
    label = segments.label_of(last.path)
    assert label is not None
    buffer = bytearray()
    encode_payload(buffer, [], [], 0)
    seal(buffer, mark_of(label.log_id, label.ordinal), last.number, last.synced, 0)
    assert int.from_bytes(buffer[44:46], "little") == VERSION
    _sealed_as(buffer, VERSION + 1)
    overwrite(last.path, last.offset, bytes(buffer))


def _sealed_as(buffer: bytearray, version: int) -> None:
    buffer[44:46] = version.to_bytes(2, "little")
    buffer[48:52] = crc32(buffer[52:], crc32(buffer[:48])).to_bytes(4, "little")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "an entry": (damaged_entry(2, 300), "commit 2 is missing at {0}, offset 4"),
    "a header": (damaged_entry(3, 20), "commit 3 is missing at"),
    "a mark": (damaged_entry(3, 5), "commit 3 is missing at"),
    "a length": (damaged_entry(4, 41), "commit 4 is missing at"),
    "a checksum": (damaged_entry(4, HEADER_SIZE - 1), "commit 4 is missing at"),
    "a payload": (damaged_entry(5, -10), "commit 5 is missing at"),
    "the last entry but one": (damaged_entry(COMMITS - 1, 1000), f"commit {COMMITS - 1} is missing at"),
    "the first entry": (damaged_entry(1, 100), "the log begins at commit 4 ({1})"),
    "the first entry of a segment": (damaged_entry(4, 100), "commit 4 is missing at {0}, offset"),
    "zeros": (zeros(5), "commit 5 is missing at"),
    "first segment gone": (gone(0), "the log begins at commit 4 ({1})"),
    "a segment gone": (gone(1), "commit 4 is missing at {0}, offset"),
    "a header of a segment": (lambda path: flip(files_of(path)[1], 25), "{1} is damaged: its header"),
    "the magic of a segment": (lambda path: flip(files_of(path)[0], 0), "{0} is damaged: its header"),
    "a segment cut": (cut(1, 70_000), "{1} is damaged: it has 70000 bytes, and must have"),
    "the last segment cut": (cut(-1, 4096), "is damaged: it has 4096 bytes"),
    "an empty segment": (cut(1, 0), "{1} is damaged"),
    "segments swapped": (swapped, "its header fails its checksum"),
    "old content": (old_content, "commit 4 is missing at {0}, offset"),
    "another log": (another_log, "belongs to another database"),
    "no directory": (lambda path: shutil.rmtree(f"{path}.log"), "there is none in {2}"),
    "an empty directory": (lambda path: [f.unlink() for f in files_of(path)] and None, "there is none in {2}"),
    "newer entry": (newer_entry, "version 2, and this server knows up to version 1: use the server version"),
    "segments in use gone": (
        lambda path: [f.unlink() for f in files_of(path)[:-1]] and None,
        "files of it are missing",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
async def test_damage_is_refused_and_says_where(local: LocalMaker, kind: str) -> None:
    damage, said = DAMAGES[kind]
    path, _ = await killed(local)
    first, second, *_ = files_of(path)
    damage(path)
    text = await refused(local, path)
    assert said.format(first, second, f"{path}.log") in text


async def test_a_file_in_the_place_of_the_directory(local: LocalMaker) -> None:
    path, _ = await killed(local)
    shutil.rmtree(f"{path}.log")
    segments.directory_of(path).write_text("what the server said")
    assert "is not a directory" in await refused(local, path)


async def test_the_newest_segment_is_gone(local: LocalMaker) -> None:
    """The tables remember which one was in use."""
    path, _ = await killed(local, flushed=COMMITS)
    newest = max(e.path for e in entries_of(path))
    for file in files_of(path):
        if file >= newest:
            file.unlink()
    assert f"{newest} is not there" in await refused(local, path)


async def test_entries_behind_a_hole_that_nobody_was_promised(local: LocalMaker) -> None:
    """Durability "normal": a power cut may lose any of what was not synced; the rest of that must not come back."""
    store = local.at(local.directory / "a" / "s.db", "normal")
    await store.open()
    scribe = Scribe(store)
    for n in range(1, 6):
        scribe.create(n)
        await scribe.commit()
    path = local.directory / "b" / "s.db"
    await leave(store, path)
    entries = entries_of(path)
    assert {e.synced for e in entries} == {0}
    overwrite(entries[2].path, entries[2].offset, bytes(entries[2].size))

    again = local.at(path)
    assert (await again.open()).commit == 2
    other = Scribe(again, 2)
    other.create(6)
    assert await other.commit() == entries[2].size
    last = local.directory / "c" / "s.db"
    await leave(again, last)
    found = local.at(last)
    assert (await found.open()).commit == 3
    await Scribe(found).check([session_key("", f"session_{n}_1756549800_{n * 7919}") for n in (3, 4, 5)])
    other.store = found
    await other.check()


async def test_the_same_hole_below_what_was_synced_is_damage(local: LocalMaker) -> None:
    store = local.at(local.directory / "a" / "s.db", "normal")
    await store.open()
    scribe = Scribe(store)
    for n in range(1, 6):
        scribe.create(n)
        await scribe.commit()
        if n == 3:
            assert store._journal is not None
            await store._journal.sync()
    path = local.directory / "b" / "s.db"
    await leave(store, path)
    entry = entries_of(path)[2]
    overwrite(entry.path, entry.offset, bytes(entry.size))
    assert "commit 3 is missing" in await refused(local, path)


async def test_tables_that_are_ahead_of_a_lost_end(local: LocalMaker) -> None:
    """Durability "normal": the tables were synced, the log not yet; the numbers go on behind the tables'."""
    store = local.at(local.directory / "a" / "s.db", "normal")
    await store.open()
    scribe = Scribe(store)
    for n in range(1, 6):
        scribe.create(n)
        await scribe.commit()
    await store.flush()
    path = local.directory / "b" / "s.db"
    await leave(store, path)
    for entry in entries_of(path)[2:]:
        overwrite(entry.path, entry.offset, bytes(entry.size))
    await starts(local, path, 5)


async def test_a_segment_that_was_used_before_tells_nothing_old(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies behind the end of a reused segment is whole, has this log's id, and is old."""
    monkeypatch.setattr(segments, "LARGEST", segments.SMALLEST)
    store = local.at(local.directory / "a" / "s.db")
    await store.open()
    scribe = Scribe(store)
    scribe.create(1)
    await scribe.commit()
    local.forget_log(store)
    s = scribe.session(1)
    for _ in range(30):
        scribe.update(s, b'{"n":"%s"}' % (b"x" * 20_000), replaces=True)
        await scribe.commit()
        await store.flush()
    used = [file for file in files_of(store.path) if _has_old_entries(file)]
    assert used, "no segment was used twice"
    path = local.directory / "b" / "s.db"
    await leave(store, path)
    again = scribe.store = local.at(path)
    assert (await again.open()).commit == scribe.last
    await scribe.check()


def _has_old_entries(file: Path) -> bool:
    label = segments.label_of(file)
    assert label is not None
    data = file.read_bytes()
    return any(mark_of(label.log_id, ordinal) in data for ordinal in range(1, label.ordinal))


async def test_a_clean_database_needs_no_log(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    store = local.at(path)
    await store.open()
    await store.close(clean=True)
    for damage in (lambda: shutil.rmtree(f"{path}.log"), lambda: another_log(path)):
        damage()
        store = scribe.store = local.at(path)
        assert (await store.open()).commit == COMMITS
        await scribe.check()
        assert [e.number for e in entries_of(path)] == []
        await store.close(clean=True)
    assert len(local.log.named("log_begun_anew")) == 2


async def test_a_database_that_is_gone_leaves_a_log_that_may_be_needed(local: LocalMaker) -> None:
    path, _ = await killed(local)
    kept = path.with_name("kept")
    path.rename(kept)
    path.with_name("s.db-wal").unlink()
    assert "is missing, but its log" in await refused(local, path)
    kept.rename(path)
    store = local.at(path)
    await store.open()
    await store.close(clean=True)
    path.unlink()
    store = local.at(path)
    assert (await store.open()).commit == 0
