"""Records uses of sessions that were only noted in memory.

A use is soft: no reply waits for it, and a crash may lose so much of it as the start
after it gives back.  What must not be lost, or shows in a list, is recorded here.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from stui_sessions.commands.upkeep import RECORD_USES, Keys
from stui_sessions.domain.entities import Key
from stui_sessions.errors import Refusal

if TYPE_CHECKING:
    from stui_sessions.engine.engine import Engine

STEP = 200
"""Sessions in one draft, so that the loop is free between two of them."""

MOST_USES = 2000
"""Uses that are noted at which they are recorded, in the background."""

KEPT_USES = 100_000
"""Uses that are noted at most: while the disk refuses, the oldest ones are forgotten."""


class UseRecorder:
    """Has uses recorded that only the engine knows of."""

    def __init__(self, engine: "Engine", log: Any) -> None:
        self._engine = engine
        self._log = log
        self._one = asyncio.Lock()
        self._task: asyncio.Task[bool] | None = None

    async def record_all(self) -> bool:
        """Record all that are noted now; False if the store refuses (they stay noted)."""
        uses = self._engine.uses
        if not uses:
            return True
        async with self._one:
            keys = list(uses)
            for start in range(0, len(keys), STEP):
                if not await self._record(keys[start : start + STEP]):
                    return False
        return True

    def record_soon(self) -> None:
        """Record all in the background, unless that is under way."""
        if (self._task is None or self._task.done()) and not self._one.locked():
            self._task = asyncio.create_task(self.record_all())

    async def _record(self, keys: list[Key]) -> bool:
        uses = self._engine.uses
        noted = {key: uses[key] for key in keys if key in uses}
        try:
            await self._engine.run(RECORD_USES, Keys(list(noted)))
        except Refusal as refusal:
            self._log.debug("uses.unrecorded", error=refusal.text)
            return False
        for key, at in noted.items():
            if uses.get(key) == at:  # it has ended or was removed: there is nothing to record
                del uses[key]
        return True
