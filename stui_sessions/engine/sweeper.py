"""Background expiry: what time has made due, in small steps that no client feels."""

import asyncio
import random
from typing import TYPE_CHECKING, Any

from stui_sessions.commands.upkeep import SWEEP, Keys
from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE, Session
from stui_sessions.domain.finding import Due, DueFound, DueSession, Position
from stui_sessions.domain.lifecycle import STATUS_NAMES
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.logs import hide
from stui_sessions.storage.contract import Store

if TYPE_CHECKING:
    from stui_sessions.engine.engine import Engine

STEP_SESSIONS = 200
STEP_BYTES = 4 * 1024 * 1024
"""What is loaded for one step, so that sweeping never fills the memory."""

DUTY = 3.0
"""The sweeper rests this many times as long as a step took."""

FIRST_SWEEP_SECONDS = 1.0

SPREAD = 0.3
"""Servers that share a store sweep up to so much of the interval earlier, so that they seldom meet.

When they do, each session is expired or removed by one of them: the commit of the
other finds that out, and it decides again.
"""


class Sweeper:
    """Marks idle sessions expired, and removes ended ones that were kept long enough."""

    def __init__(self, engine: "Engine", store: Store, log: Any) -> None:
        self.runs = 0
        self.last_run: str | None = None
        self._engine = engine
        self._store = store
        self._log = log
        self._changed = asyncio.Event()

    def reconsider(self) -> None:
        """The interval may have become shorter: rest no longer than it says from now on."""
        self._changed.set()

    async def run(self) -> None:
        """Sweep every interval until cancelled; what fails is tried again the next time."""
        await asyncio.sleep(FIRST_SWEEP_SECONDS)
        while True:
            try:
                seen = await self.sweep()
            except (StorageError, Refusal) as error:
                self._log.warning("sweep.failed", error=str(error))
            else:
                self.runs += 1
                self.last_run = self._engine.clock().text
                if seen:
                    self._log.debug("sweep.done", looked_at=seen)
            await self._rest()

    async def sweep(self) -> int:
        """One pass over all that is due; returns how many sessions were looked at."""
        return sum([await self._sweep_status(status) for status in (LIVE, EXPIRED, CLOSED, DELETED)])

    async def _rest(self) -> None:
        """Wait for the interval, as it is now or gets in the meantime."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        part = 1.0 if self._engine.freshness is None else random.uniform(1 - SPREAD, 1.0)
        while (left := began + self._engine.world.rules.cleanup_interval * part - loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    async def _sweep_status(self, status: int) -> int:
        kept = 0 if status == LIVE else self._engine.world.rules.keep_expired * 1000
        before = self._engine.clock().wall - kept
        position: Position = (-1, -1)
        seen = 0
        loop = asyncio.get_running_loop()
        while due := await self._due(status, before, position):
            for step in _steps(due):
                began = loop.time()
                removed = await self._engine.run(SWEEP, Keys([d.key for d in step]))
                self._report(removed.sessions)
                await asyncio.sleep((loop.time() - began) * DUTY)
            seen += len(due)
            position = (due[-1].due_at, due[-1].number)
        return seen

    async def _due(self, status: int, before: int, position: Position) -> list[DueSession]:
        found = await self._store.query(Due(status, before, position, STEP_SESSIONS), self._engine.clock().wall)
        assert isinstance(found, DueFound)
        return found.due

    def _report(self, removed: list[Session]) -> None:
        """Log each session that was removed, and why."""
        for s in removed:
            reason = STATUS_NAMES[s.status]
            self._log.info(
                "session.removed", session=hide(s.session_id), user=s.user_id, client=s.client_id, reason=reason
            )


def _steps(due: list[DueSession]) -> list[list[DueSession]]:
    """Cut into steps of bounded size."""
    steps: list[list[DueSession]] = [[]]
    size = 0
    for d in due:
        if size + d.size > STEP_BYTES and steps[-1]:
            steps.append([])
            size = 0
        steps[-1].append(d)
        size += d.size
    return steps
