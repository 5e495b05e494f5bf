"""Starts that fail when the store is open already."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.app import server as app
from stui_sessions.config import Settings
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.contract import Store
from stui_sessions.storage.local import LocalStore
from tests.storage.stores import Clock, RecordingLog


@pytest.fixture
def collected() -> Iterator[None]:
    """A start switches garbage collection off until it listens."""
    yield
    gc.enable()


def at(path: Path) -> LocalStore:
    return LocalStore(path, durability="full", clock=Clock(), log=RecordingLog())


@pytest.mark.parametrize("error", [StorageError("the disk is full"), RuntimeError("a fault")])
@pytest.mark.usefixtures("collected")
async def test_the_store_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Nothing keeps the process, nor the database; the next start still has to note that the last one was killed."""
    path = tmp_path / "s.db"
    made = at(path)
    await made.open()
    await made.close(clean=False)

    async def refuse(at: int) -> None:
        raise error

    def make(*_: object) -> Store:
        store = at(path)
        store.note_uncertain = refuse  # type: ignore[method-assign]
        return store

    monkeypatch.setattr(app, "make_store", make)
    before = set(threading.enumerate())
    logs: Any = None  # nobody tells it anything before the server runs
    server = app.App(Settings(port=0, db=str(path)), lambda: (Settings(), []), logs)
    with pytest.raises(StartError if isinstance(error, StorageError) else RuntimeError, match=str(error)):
        await server.run()
    # Those of asyncio go with the loop.
    left = [t for t in set(threading.enumerate()) - before if not t.name.startswith("asyncio_")]
    for thread in left:
        await asyncio.to_thread(thread.join, 5)
    assert not [thread.name for thread in left if thread.is_alive()]
    again = at(path)
    assert not (await again.open()).clean
    await again.close(clean=True)
