"""What the server asks of itself: requests without a peer, and waiting for commits."""

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct

from stui_sessions.domain.caller import SYSTEM
from stui_sessions.engine.attempts import Attempt, Failure
from stui_sessions.errors import Refusal
from stui_sessions.protocol.messages import Success
from stui_sessions.protocol.registry import Command

if TYPE_CHECKING:
    from stui_sessions.engine.engine import Engine


class SystemRequest(Struct, gc=False):
    """A request of the server's own."""

    id: Raw
    command: Command
    parameters: Any


class Signal:
    """A waiter that only wants to know that a commit has ended, well or not."""

    def __init__(self, engine: "Engine", commit: int) -> None:
        self.refusal: Refusal | None = None
        self.failed = False
        self._engine = engine
        self._commit = commit
        self._over = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        self._engine.hold(self)
        try:
            await self._over
        finally:
            self._engine.let_go(self)

    def release(self, committed: int) -> None:
        if committed < self._commit:
            self._engine.hold(self)
        elif not self._over.done():
            self._over.set_result(None)

    def redo(self, failure: Failure) -> None:
        if not failure.hits(self._commit):
            self.release(self._engine.committed)
            return
        self.failed = True
        self.refusal = failure.lost.get(self._commit)
        if not self._over.done():
            self._over.set_result(None)


class Errand:
    """One request of the server's own, from the first try to its commit."""

    def __init__(self, engine: "Engine", request: SystemRequest) -> None:
        self._engine = engine
        self._request = request
        self._ready = asyncio.Event()

    async def run(self) -> Any:
        """Its result, once that is committed; raises Refusal."""
        engine = self._engine
        while True:
            decided = engine.ask(self._request, SYSTEM, engine.clock(), self._ready.set)
            while isinstance(decided, Attempt):
                decided = await self._again(decided)
            if isinstance(decided, Success):
                return decided.result
            if decided.commit > engine.committed:
                signal = Signal(engine, decided.commit)
                await signal.wait()
                if signal.failed and decided.wrote and signal.refusal is not None:
                    raise signal.refusal
                if signal.failed:
                    continue
            if isinstance(decided.reply, Success):
                return decided.reply.result
            raise Refusal.told(decided.reply.error_code, decided.reply.error)

    async def _again(self, attempt: Attempt) -> Any:
        try:
            await self._ready.wait()
        except asyncio.CancelledError:
            self._engine.give_up(attempt)
            raise
        self._ready.clear()
        return self._engine.retry(attempt, self._engine.clock())
