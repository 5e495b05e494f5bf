"""Background expiry: what time has made due, in small steps that no client feels."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from stui_sessions.errors import StorageError
from stui_sessions.logs import hide
from stui_sessions.server.engine import Engine
from stui_sessions.server.loader import Loader
from stui_sessions.server.writer import Writer
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, LIVE, Session
from stui_sessions.sessions.residents import groups_of
from stui_sessions.storage.base import Due

STEP_SESSIONS = 200
STEP_BYTES = 4 * 1024 * 1024
"""What is made resident for one step, so that sweeping never fills the memory."""

DUTY = 3.0
"""The sweeper rests this many times as long as a step took."""

FIRST_SWEEP_SECONDS = 1.0


class Sweeper:
    """Marks idle sessions expired, and removes ended ones that were kept long enough."""

    def __init__(self, engine: Engine, writer: Writer, loader: Loader, interval: Callable[[], int], log: Any) -> None:
        self._engine = engine
        self._writer = writer
        self._loader = loader
        self._interval = interval
        self._log = log
        self.runs = 0
        self.last_run: str | None = None

    async def run(self) -> None:
        """Sweep every interval until cancelled; what fails is tried again the next time."""
        await asyncio.sleep(FIRST_SWEEP_SECONDS)
        while True:
            try:
                seen = await self.sweep()
            except StorageError as error:
                self._log.warning("sweep.failed", error=str(error))
            else:
                self.runs += 1
                self.last_run = self._engine.clock().text
                if seen:
                    self._log.debug("sweep.done", looked_at=seen)
            await asyncio.sleep(self._interval())

    async def sweep(self) -> int:
        """One pass over all that is due; returns how many sessions were looked at."""
        await self._writer.snapshot_all()  # so that the store knows all that is due
        seen = 0
        for status in (LIVE, EXPIRED, CLOSED, DELETED):
            seen += await self._sweep_status(status)
        return seen

    async def _sweep_status(self, status: int) -> int:
        kept = 0 if status == LIVE else self._engine.manager.rules.keep_expired * 1000
        before = self._engine.clock().wall - kept
        position = (-1, -1)
        seen = 0
        loop = asyncio.get_running_loop()
        while due := await self._loader.due(status, before, position, STEP_SESSIONS):
            for step in _steps(due):
                began = loop.time()
                await self._step(step)
                await asyncio.sleep((loop.time() - began) * DUTY)
            seen += len(due)
            position = (due[-1].due_at, due[-1].number)
        return seen

    def _report(self, removed: Iterable[Session]) -> None:
        """Nothing disappears without a word."""
        residents = self._engine.book.residents.sessions
        for s in removed:
            resident = residents.get(s.session_id)
            now = None if resident is None else resident.session
            if now is None or now.number != s.number:  # else the disk refused, and it is back
                reason = STATUS_NAMES[s.status]
                self._log.info(
                    "session.removed", session=hide(s.session_id), user=s.user_id, client=s.client_id, reason=reason
                )

    async def _step(self, due: list[Due]) -> None:
        book = self._engine.book
        absent = tuple(d.session_id for d in due if d.session_id not in book.residents.sessions)
        await self._loader.load(NotResident(sessions=absent))
        residents = (book.residents.sessions.get(d.session_id) for d in due)
        groups = {key: None for r in residents if r is not None for key in groups_of(r.session)}
        await self._loader.load(NotResident(groups=tuple(groups)))
        now = self._engine.clock()
        removed = []
        for d in due:
            try:
                removed.append(self._engine.manager.sweep(d.session_id, now))
            except NotResident:  # dropped meanwhile: the next pass will see it
                continue
        # What was not due after all was used since the store noted its end: note it anew.
        book.mark_unrecorded(
            book.residents.sessions[d.session_id] for d in due if d.session_id in book.residents.sessions
        )
        if book.changes:
            self._writer.wake()
            await self._engine.until_committed()
        self._report(s for s in removed if s is not None)
        self._loader.trim()
        if book.residents.bytes > self._loader.resident_limit:
            await self._writer.snapshot_all()  # what was swept stays in memory until it is written


def _steps(due: list[Due]) -> list[list[Due]]:
    """Cut into steps of bounded size."""
    steps: list[list[Due]] = [[]]
    size = 0
    for d in due:
        if size + d.size > STEP_BYTES and steps[-1]:
            steps.append([])
            size = 0
        steps[-1].append(d)
        size += d.size
    return steps
