"""Load, decide, commit, reply: one request's way through the server.

The engine decides requests on what is resident, at once and without an await.
What has to be loaded goes to the loader, what was changed to the writer; the
dialogues that wait are told when to go on.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec import Struct

from stui_sessions.errors import Refusal
from stui_sessions.protocol.commands import COMMANDS
from stui_sessions.protocol.messages import Failure, Reply, Request, Success, WireLimits, failure
from stui_sessions.protocol.results import DescribeResult, ExportResult, OpenResult, PageResult, ReadBackupResult
from stui_sessions.sessions.book import Change, NotResident
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.manager import SessionManager
from stui_sessions.sessions.residents import Resident
from stui_sessions.sessions.timing import Moment

ITEM_WEIGHT = 300
"""Bytes that a request and its reply take at least."""


class Decided(Struct, gc=False):
    """A reply, and the commit that it must wait for."""

    reply: Reply
    request: Request | None  # to decide it again; None where there is nothing to decide
    commit: int
    wrote: bool = False
    weight: int = ITEM_WEIGHT  # bytes of memory, about


class Waiter(Protocol):
    """One who waits for loads or commits: a dialogue."""

    def release(self, committed: int) -> None:
        """Commits up to `committed` are on disk."""

    def redo(self, failed: int, refusal: Refusal) -> None:
        """Commit `failed` was undone, and all that was decided since."""

    def resume(self) -> None:
        """What was missing has been loaded."""

    def fail_load(self, refusal: Refusal) -> None:
        """What was missing cannot be loaded now."""


class Engine:
    """Decides requests; knows what is committed and who waits.

    `want_commit` and `want_load` wake the writer and the loader.
    """

    def __init__(self, manager: SessionManager, clock: Callable[[], Moment], limits: WireLimits) -> None:
        self.manager = manager
        self.book = manager.book
        self.clock = clock
        self.limits = limits
        self.committed = self.book.batch - 1
        """The newest commit that is on disk."""
        self.want_commit: Callable[[], None] = lambda: None
        self.want_load: Callable[[NotResident, Waiter | None], None] = lambda missing, waiter: None
        self.on_fault: Callable[[str, BaseException], None] = lambda command, error: None
        self._waiting: dict[Waiter, None] = {}
        self._handlers: dict[str, Callable[[Caller, Any, Moment], Any]] = {
            name: getattr(manager, name) for name in COMMANDS
        }

    def decide(self, request: Request, caller: Caller, now: Moment) -> Decided | Success:
        """Decide one request; a small reply that waits for nothing comes as it is.

        NotResident if something has to be loaded first.
        """
        command, book = request.command, self.book
        noted = len(book.changes)
        book.named = None
        try:
            result = self._handlers[command.name](caller, request.parameters, now)
        except NotResident:
            raise
        except Refusal as refusal:
            return Decided(self.refuse(request.id, refusal, now), request, book.newest if command.tells_state else 0)
        except Exception as error:
            return Decided(self._fault(request, noted, error, now), request, book.newest)
        wrote = False
        if len(book.changes) > noted:
            wrote = command.writes
            if not noted:  # the first change for the next commit; the others go with it
                self.want_commit()
        reply = Success(request.id, "success", result, now.text)
        resident = book.named
        if not command.names_session or resident is None:
            commit = book.newest if command.tells_state else 0
            return Decided(reply, request, commit, wrote, ITEM_WEIGHT + _size(result, resident))
        # Waits for the last change of this session alone, not for its neighbours'.
        if command.returns_state:
            return Decided(reply, request, resident.written, wrote, resident.size + ITEM_WEIGHT)
        if resident.written <= self.committed:
            return reply
        return Decided(reply, request, resident.written, wrote)

    def _fault(self, request: Request, noted: int, error: Exception, now: Moment) -> Failure:
        """A fault of ours: the request has changed nothing, and the log says more."""
        changes = self.book.changes
        self.manager.undo(changes[noted:])
        del changes[noted:]
        if not changes:
            self.book.newest = min(self.book.newest, self.book.batch - 1)
        self.on_fault(request.command.name, error)
        fault = Refusal("internal_error", "a fault in the server; the request was not carried out")
        return self.refuse(request.id, fault, now)

    def refuse(self, id: Any, refusal: Refusal, now: Moment) -> Failure:
        return failure(id, refusal, now.text)

    def message_too_large(self) -> Refusal:
        limit = self.limits.max_message_bytes
        return Refusal(
            "message_too_large", f"a line may be {limit} bytes long; this one is longer, and was discarded", limit=limit
        )

    # -- waiting for commits

    def hold(self, waiter: Waiter) -> None:
        """`waiter` has replies that wait for a commit."""
        self._waiting[waiter] = None

    def let_go(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)

    def on_committed(self, number: int) -> None:
        """Commit `number` is on disk: release those who waited for it, all together."""
        self.committed = number
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.release(number)

    def on_commit_failed(self, number: int, changes: list[Change], refusal: Refusal) -> None:
        """Undo commit `number` and everything decided on top of it; writers of it are refused."""
        undecided, self.book.changes = self.book.changes, []
        self.book.batch = number
        self.manager.undo(undecided)
        self.manager.undo(changes)
        self.book.newest = number - 1
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.redo(number, refusal)

    async def until_committed(self) -> None:
        """Wait until everything decided so far is on disk, or has been undone."""
        everything = self.book.batch if self.book.changes else self.book.batch - 1  # activity too
        if everything > self.committed:
            signal = _Signal(self, everything)
            self.hold(signal)
            await signal.event.wait()

    def resume(self, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            waiter.resume()


def _size(result: Any, resident: Resident | None) -> int:
    """Bytes that a result takes beside what any takes, about."""
    if type(result) is DescribeResult:  # shared by all replies, but each of them is encoded for itself
        return len(result.contract)
    if type(result) is ReadBackupResult:
        return len(result.data)
    if type(result) is ExportResult:
        return sum(len(row.session) for row in result.sessions)
    if type(result) is PageResult:
        return sum(ITEM_WEIGHT + row.metadata_bytes for row in result.sessions)
    return resident.size if type(result) is OpenResult and resident is not None else 0


class _Signal:
    """A waiter that only wants to know that a commit has ended, well or not."""

    def __init__(self, engine: Engine, commit: int) -> None:
        self.event = asyncio.Event()
        self._engine = engine
        self._commit = commit

    def release(self, committed: int) -> None:
        if committed >= self._commit:
            self.event.set()
        else:
            self._engine.hold(self)

    def redo(self, failed: int, refusal: Refusal) -> None:
        self.event.set()

    def resume(self) -> None:
        """Waits for no load."""

    def fail_load(self, refusal: Refusal) -> None:
        """Waits for no load."""
